"""One writer at a time in a folder: a lock of the operating system's, which the kernel frees when its holder dies.

The lock is on a small file in the folder, which its holder removes while it still has it; whoever opened that file in
between sees that its name is gone, and begins anew. (Windows does not remove an open file: there it stays.) What is
written in it is for messages alone. A lock belongs to a thread, which may take it again inside; a process that is
forked off does not have it, so that it ends with the one that took it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.patience import patiently
from ppl_vae.storage.plain_file import WITHOUT_WAITING

LOCK = ".lock"
_POLL = 0.05  # seconds between two looks at a lock that somebody has
_MESSAGE = 4096  # bytes read of what a holder says of itself
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK, errno.EWOULDBLOCK}


class FolderInUse(BlockingIOError):
    """Somebody else is writing in the folder; the message says which process, where, and since when."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder}: in use by {holder}; wait until it has ended, or choose another folder")
        self.path = folder


@dataclass
class _Held:
    descriptor: int
    thread: int
    depth: int = 1


_HELD: dict[str, _Held] = {}
"""By folder, what this process has locked: a fact of the process, as the locks themselves are."""


@contextmanager
def locked(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Be the only one who writes in ``folder``, which must exist. Where its file system has no locks, warn and go on.

    Args:
        wait: seconds to wait for somebody else; then he is named.

    Raises:
        FolderInUse: another process has it, or another thread of this one.
        WriteError: the file of the lock could not be made.
        StorageError: what bears its name is no plain file.
    """
    key = os.path.realpath(folder)
    own = _HELD.get(key)
    if own is not None and own.thread == threading.get_ident():
        own.depth += 1
    else:
        _HELD[key] = own = _Held(_acquire(folder, time.monotonic() + wait), threading.get_ident())
    try:
        yield
    finally:
        own.depth -= 1
        if own.depth == 0 and _HELD.get(key) is own:  # a forked child has none
            del _HELD[key]
            _release(own.descriptor, folder / LOCK)


def _acquire(folder: Path, deadline: float) -> int:
    path = folder / LOCK
    while True:
        descriptor = patiently(path, partial(_open, path))
        try:
            if _take(descriptor, folder):
                if _is_there(descriptor, path):
                    _say_who(descriptor)
                    return descriptor
                holder = None  # its last holder has removed it meanwhile
            else:
                holder = _who(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if holder is not None:
            if time.monotonic() >= deadline:
                raise FolderInUse(folder, holder)
            time.sleep(_POLL)


def _open(path: Path) -> int:
    with suppress(FileNotFoundError):
        _require_own(os.lstat(path), path)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | WITHOUT_WAITING
    descriptor = os.open(path, flags, 0o666)
    try:
        _require_own(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(found: os.stat_result, path: Path) -> None:
    """It is written to: so it must not be a file of somebody else's under another name."""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise StorageError(
            path, "a plain file with this one name is required for the lock, got something else; remove it"
        )


def _take(descriptor: int, folder: Path) -> bool:
    try:
        _lock_now(descriptor)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{folder}: this file system has no locks ({error.strerror}), so nobody is kept from writing here at the "
            "same time; let one process write at a time",
            stacklevel=6,
        )
    return True


def _is_there(descriptor: int, path: Path) -> bool:
    """Is the file still the one that bears the name?"""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _release(descriptor: int, path: Path) -> None:
    try:
        with suppress(OSError):  # it may stay: nobody takes it for more than a name
            if _is_there(descriptor, path):
                os.unlink(path)
    finally:
        os.close(descriptor)


def _say_who(descriptor: int) -> None:
    who = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    with suppress(OSError):  # a full disk does not matter for a message
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(who).encode())


def _who(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        who: Any = json.loads(os.read(descriptor, _MESSAGE))
        return f"process {int(who['process'])} on {str(who['host'])[:100]!r} since {str(who['since'])[:40]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _lock_now(descriptor: int) -> None:
    """Lock it, or raise OSError at once."""
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind the message, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_go() -> None:
    """In a forked child: its copies of the descriptors would keep the locks after the death of their holder."""
    for held in _HELD.values():
        with suppress(OSError):
            os.close(held.descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
