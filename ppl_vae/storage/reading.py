"""The tests that the bytes of every file pass before they are parsed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.plain_file import open_plain

JSON_LIMIT = 1 << 26
"""Bytes of a file of JSON, or of the JSON in another: what a run folder says of itself takes a few thousand."""
LIMIT = 1 << 30
"""Bytes of a file that is neither a tree nor a posterior, where no manifest knows its size: texts and figures."""
_BLOCK = 1 << 20
_DAMAGED = "the file is damaged or was changed"
_LARGE = (".safetensors", ".nc")


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; :class:`StorageError` where there is none, it is no plain file, or it is a pickle."""
    with open_plain(path) as file:
        return read_open(file, path)


def read_open(file: BinaryIO, path: str | Path) -> bytes:
    """The bytes of a file that is open."""
    require_size(file, path)
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


def require_size(file: BinaryIO, path: str | Path, size: int | None = None) -> None:
    """Refuse by its size alone a file that would take long to read, and would be refused then.

    Args:
        file: open.
        path: for the message.
        size: what the manifest says, in bytes; without it a tree must have the size that its own header makes, and
            what else is no posterior must be within :data:`LIMIT`.

    Raises:
        StorageError: it has another size; or it is a pickle, which is said first.
    """
    try:
        found, suffix = os.fstat(file.fileno()).st_size, Path(path).suffix
        problem = None
        if suffix == ".json" and found > JSON_LIMIT:
            problem = f"at most {JSON_LIMIT} bytes of JSON are read, got {found}"
        elif size is not None and found != size:
            problem = f"the content does not match the manifest ({size} bytes, got {found}); {_DAMAGED}"
        elif size is None and suffix == ".safetensors" and found != (declared := _declared(file, found)):
            problem = f"not a safetensors file, or a truncated one: its header makes {declared} bytes, got {found}"
        elif size is None and suffix not in _LARGE and found > LIMIT:
            problem = f"at most {LIMIT} bytes are read where the manifest gives no size, got {found}"
        if problem is not None:
            file.seek(0)
            begin = file.read(4)
            file.seek(max(0, found - 1))
            refuse_pickle(begin, file.read(1), path)
            raise StorageError(path, problem)
    except OSError as error:
        raise StorageError(path, f"cannot be read ({error.strerror or error})") from None


def _declared(file: BinaryIO, found: int) -> int | None:
    """The size of a safetensors file by its header: 8 bytes of length, JSON with the place of each tensor, numbers."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(JSON_LIMIT, found - 8):
        return None
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def refuse_pickle(begin: bytes, last: bytes, path: str | Path) -> None:
    """Say clearly what the file is, where it begins and ends as a pickle or as an archive of pickles.

    A courtesy and not the defence: whatever the bytes are, nothing in this package unpickles them.
    """
    if begin[:1] == b"\x80" and begin[1:2] <= b"\x05" and last == b".":
        raise StorageError(path, "this is a pickle; refused (loading a pickle can run any code)")
    if begin == b"PK\x03\x04":
        raise StorageError(path, "this is a zip archive such as torch.save writes, with a pickle inside; refused")
