"""Only plain files are opened, replaced or removed, and only inside the folder: looked at before they are touched.

A folder may come from anywhere. A pipe in it would stop whoever opens it, a device would act, and a link would lead a
removal to a file of somebody else's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ppl_vae.storage.errors import StorageError

_OTHERS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
}
WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def require_plain_name(folder: Path, name: str) -> Path:
    """``folder / name``, where nothing is, or a plain file; links are followed as long as they stay in the folder.

    The folder itself may be a link: a person has named it.

    Raises:
        StorageError: it is a pipe, a socket, a device or a folder, a link leads out of the folder or to itself, or it
            cannot be looked at.
    """
    path, home = folder / name, os.path.realpath(folder)
    for link in (path.parent, path):
        real = os.path.realpath(link)
        if real != home and not real.startswith(os.path.join(home, "")):
            raise StorageError(path, f"leads out of the folder, to {real}; it is neither read, written nor removed")
    with suppress(FileNotFoundError, NotADirectoryError), _blamed_on(path):
        _require_plain(os.stat(path).st_mode, path)  # what a link inside the folder leads to
    return path


def require_plain_folder(folder: Path, name: str) -> Path:
    """``folder / name``, where nothing is, or a folder that lies there and is no link."""
    path = folder / name
    with suppress(FileNotFoundError), _blamed_on(path):
        mode = os.lstat(path).st_mode
        if not stat.S_ISDIR(mode):
            raise StorageError(path, f"a folder is required, got {_name_of(mode)}")
    return path


def open_plain(path: str | Path) -> BinaryIO:
    """Open a file for reading, its bytes as they are.

    Raises:
        StorageError: there is none, it cannot be read, or it is no plain file (which is found out without opening it).
    """
    try:
        _require_plain(os.stat(path).st_mode, path)
        descriptor = os.open(path, os.O_RDONLY | WITHOUT_WAITING)
    except FileNotFoundError:
        raise StorageError(path, "no such file") from None
    except OSError as error:
        raise StorageError(path, f"cannot be read ({error.strerror or error})") from None
    file = os.fdopen(descriptor, "rb")
    try:
        _require_plain(os.fstat(descriptor).st_mode, path)  # it may have been put there just now
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """That nothing is there is for the caller; whatever else the system says is said with the path."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StorageError(path, f"cannot be looked at ({error.strerror or error})") from None


def is_plain(path: Path) -> bool:
    """Is a plain file at this very place?"""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _require_plain(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        found = _name_of(mode)
        raise StorageError(path, f"a plain file is required, got {found}; it cannot be read, written or removed")


def _name_of(mode: int) -> str:
    return "a plain file" if stat.S_ISREG(mode) else _OTHERS.get(stat.S_IFMT(mode), "something else")
