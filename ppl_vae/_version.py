"""The version, said once: in a file that imports nothing, so that rooms and builds may read it."""

__version__ = "0.1.0"
