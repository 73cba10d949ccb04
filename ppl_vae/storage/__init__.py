"""What is written to disk, and how it is read back without running anybody's code.

Nothing here uses pickle, and no name read from a file is ever imported or executed. Every file carries, or is
listed with, a SHA-256 digest, so a truncated file or one flipped byte is a :class:`StorageError` that names
the file. This room is a leaf: it knows tensors, trees and folders, and nothing of pairs or fits.
"""

from __future__ import annotations

# one file
from ppl_vae.storage.atomic import atomic_write
from ppl_vae.storage.environment import environment
from ppl_vae.storage.errors import StorageError, WriteError
from ppl_vae.storage.json_file import decode_json, encode_json, read_json, write_json

# a folder of files that change together
from ppl_vae.storage.lock import FolderInUse, locked
from ppl_vae.storage.plain_file import require_plain_folder, require_plain_name
from ppl_vae.storage.run_folder import RunFolder
from ppl_vae.storage.snapshot import Snapshot
from ppl_vae.storage.tree import decode_tree, encode_tree, load_tree, save_tree

__all__ = [
    "FolderInUse",
    "RunFolder",
    "Snapshot",
    "StorageError",
    "WriteError",
    "atomic_write",
    "decode_json",
    "decode_tree",
    "encode_json",
    "encode_tree",
    "environment",
    "load_tree",
    "locked",
    "read_json",
    "require_plain_folder",
    "require_plain_name",
    "save_tree",
    "write_json",
]
