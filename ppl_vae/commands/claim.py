"""A command has its run folder to itself while it writes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppl_vae.storage import RunFolder, locked


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other command write into the folder for the time; what is made for this and stays empty is removed.

    Raises:
        FolderInUse: one does; the message says which process.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            yield
    finally:
        with suppress(OSError):
            for place in missing:
                place.rmdir()


def require_run(folder: Path) -> None:
    """Raise ValueError where there is nothing to go on with."""
    if not (folder / RunFolder.CHECKPOINT / RunFolder.CONFIG).exists() and not RunFolder(folder).exists():
        raise ValueError(f"{folder}: there is no run to resume")
