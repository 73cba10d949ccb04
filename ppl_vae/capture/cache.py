"""Where compiled libraries are kept: they are run, so only in a folder that nobody else can write to."""

from __future__ import annotations

import functools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppl_vae import _private as private
from ppl_vae.capture.errors import tell

__all__ = ["folder", "in_use", "open_to_others"]

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def folder() -> Path:
    """TorchInductor's cache folder (``TORCHINDUCTOR_CACHE_DIR``); one of this user's own if others can write there."""
    wanted = _wanted()
    reason = open_to_others(wanted)
    if reason is None:
        return wanted
    instead = _own()
    _say(
        f"compiling: the cache folder {wanted} is not used, because {reason}, and what is in it would be run; "
        f"libraries go to {instead} instead. Make it yours alone (chmod go-w), or set {_VARIABLE} to a folder that is"
    )
    return instead


def open_to_others(path: Path) -> str | None:
    """Why somebody else could put a file into the place of this one, or None.

    A file or folder, and each folder above it, must belong to this user or to root, and nobody else may write to it; a
    folder above it may be one in which nobody can move what is another's (as ``/tmp``).
    """
    if not hasattr(os, "getuid"):  # Windows gives each user a temporary folder of his own
        return None
    real = path.resolve()
    for place in (real, *real.parents):
        try:
            found = place.stat()
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        if found.st_uid not in (os.getuid(), 0):
            return f"{place} belongs to another user"
        is_shared = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if is_shared and (place == real or not found.st_mode & stat.S_ISVTX):
            return f"others can write to {place}"
    return None


@contextmanager
def in_use() -> Iterator[None]:
    """Let TorchInductor keep what it makes in this block in :func:`folder`."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(folder())
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def _wanted() -> Path:
    """The folder that TorchInductor takes; where there is none yet it is made for this user alone."""
    default = getattr(private, "default_cache_dir", None)
    path = os.environ.get(_VARIABLE) or (default() if default is not None else None)
    if path is not None and not os.path.exists(path):
        os.makedirs(path, mode=0o700, exist_ok=True)
    return Path(private.cache_dir())


def _own() -> Path:
    """A folder of this user's that the next process finds again, or else one for this process."""
    path = Path(tempfile.gettempdir()) / f"ppl_vae_{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path if open_to_others(path) is None else Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """It is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="ppl_vae_")


@functools.cache
def _say(message: str) -> None:
    """Once a process."""
    tell(message)
