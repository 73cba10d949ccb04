"""The errors of this room."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


class StorageError(ValueError):
    """A file that cannot be trusted; the message begins with its path."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)


class WriteError(OSError):
    """A file could not be written. What was there before is whole, and nothing half-written is left.

    Attributes:
        path: the file.
        errno: the system's number for the cause, as in every OSError.
        fit: where a run was writing its state: the fit as it is in memory, to be saved elsewhere.
    """

    def __init__(self, path: str | Path, cause: OSError) -> None:
        super().__init__(
            f"{path}: could not be written ({cause.strerror or cause}); {_ADVICE.get(cause.errno or 0, _ELSE)}"
        )
        self.path, self.errno = Path(path), cause.errno
        self.fit: Any = None


_SPACE = "free some space, or choose a folder on another disk"
_RIGHTS = "see who may write there, or choose another folder"
_GONE = "the folder is gone: bring it back, or choose another one"
_ELSE = "see to the disk, or choose another folder"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "the system allows no file of this size; raise the limit (ulimit -f), or choose another folder",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.ESTALE: _GONE,
}
