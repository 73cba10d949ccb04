"""One file written so that a reader sees the old content or the new, whatever happens in between."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path

from ppl_vae.storage.patience import patiently

STAGED = ".saving-"  # hidden, in the same folder (a rename is atomic only within one file system)


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) to ``path``: temporary file beside it, flushed to disk, then renamed.

    A process killed anywhere leaves the previous file, or the new one, never a part. The folder must exist.

    Raises:
        WriteError: the disk is full, the folder is gone or may not be written to, and this did not pass; the previous
            file is whole.
    """
    patiently(path, partial(_write_beside_and_rename, Path(path), content))


def _write_beside_and_rename(path: Path, content: bytes | str) -> None:
    staged = staged_path(path)
    try:
        write_and_flush(staged, content)
        os.replace(staged, path)
    except BaseException:
        with suppress(OSError):
            staged.unlink()
        raise
    flush_folder(path.parent)


def staged_path(path: Path) -> Path:
    """A fresh hidden name beside ``path`` with the same suffix (some writers choose a format by it)."""
    return path.with_name(f"{STAGED}{secrets.token_hex(4)}-{path.name}")


def write_and_flush(path: Path, content: bytes | str) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(path, "xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, where the system can say so."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
