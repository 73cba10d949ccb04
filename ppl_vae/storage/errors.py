"""The one error of this room, and the tests that every file passes before it is parsed."""

from __future__ import annotations

from pathlib import Path


class StorageError(ValueError):
    """A file that cannot be trusted; the message begins with its path."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; :class:`StorageError` where there is none, or it is a pickle."""
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise StorageError(path, "no such file") from None
    except OSError as error:
        raise StorageError(path, f"cannot be read ({error.strerror or error})") from None
    refuse_pickle(raw, path)
    return raw


def refuse_pickle(raw: bytes, path: str | Path) -> None:
    """Say clearly what the file is, where it begins as a pickle or as an archive of pickles.

    A courtesy and not the defence: whatever the bytes are, nothing in this package unpickles them.
    """
    if raw[:1] == b"\x80" and raw[1:2] <= b"\x05" and raw[-1:] == b".":
        raise StorageError(path, "this is a pickle; refused (loading a pickle can run any code)")
    if raw[:4] == b"PK\x03\x04":
        raise StorageError(path, "this is a zip archive such as torch.save writes, with a pickle inside; refused")
