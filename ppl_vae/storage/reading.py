"""The tests that the bytes of every file pass before they are parsed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.plain_file import open_plain

JSON_LIMIT = 1 << 26
"""Bytes of a file of JSON, or of the JSON in another: what a run folder says of itself takes a few thousand."""
_BLOCK = 1 << 20


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; :class:`StorageError` where there is none, it is no plain file, or it is a pickle."""
    with open_plain(path) as file:
        return read_open(file, path)


def read_open(file: BinaryIO, path: str | Path) -> bytes:
    """The bytes of a file that is open."""
    if str(path).endswith(".json") and (size := os.fstat(file.fileno()).st_size) > JSON_LIMIT:
        raise StorageError(path, f"at most {JSON_LIMIT} bytes of JSON are read, got {size}")
    try:
        file.seek(0)
        raw = file.read()
    except OSError as error:
        raise StorageError(path, f"cannot be read ({error.strerror or error})") from None
    refuse_pickle(raw[:4], raw[-1:], path)
    return raw


def digest_of(file: BinaryIO, path: str | Path) -> str:
    """The SHA-256 of a file that is open, read a block at a time."""
    found, begin, last = hashlib.sha256(), b"", b""
    try:
        file.seek(0)
        while block := file.read(_BLOCK):
            found.update(block)
            begin, last = begin or block[:4], block[-1:]
    except OSError as error:
        raise StorageError(path, f"cannot be read ({error.strerror or error})") from None
    refuse_pickle(begin, last, path)
    return found.hexdigest()


def refuse_pickle(begin: bytes, last: bytes, path: str | Path) -> None:
    """Say clearly what the file is, where it begins and ends as a pickle or as an archive of pickles.

    A courtesy and not the defence: whatever the bytes are, nothing in this package unpickles them.
    """
    if begin[:1] == b"\x80" and begin[1:2] <= b"\x05" and last == b".":
        raise StorageError(path, "this is a pickle; refused (loading a pickle can run any code)")
    if begin == b"PK\x03\x04":
        raise StorageError(path, "this is a zip archive such as torch.save writes, with a pickle inside; refused")
