"""One save, whole, while others may follow: its manifest, and every file of it held open.

A save replaces files and never writes into them, so what is open stays as it was. A manifest that is still the same
file after all have been opened vouches that no other save was committed in between; else the next one is taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ppl_vae.storage.digest import sha256
from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.json_file import decode_json
from ppl_vae.storage.manifest import MANIFEST, Entry, Manifest, identity_of, read_manifest, require_inside
from ppl_vae.storage.plain_file import open_plain, require_plain_name
from ppl_vae.storage.reading import digest_of, read_open, require_size
from ppl_vae.storage.tree import check_tree, decode_tree

STATE = "state.safetensors"
TRIES = 100
"""So many saves may be committed, each in the moment in which files are opened, before a reader gives up."""
_PAUSE = 0.02  # seconds before another try, growing to so much


class Snapshot:
    """The files of one save. Each is compared with the manifest when it is read.

    Args:
        folder: the run folder.
        manifest: that of the save.
        files: those that are open, by name.
    """

    def __init__(self, folder: Path, manifest: Manifest, files: dict[str, BinaryIO]) -> None:
        self.path, self._manifest, self._files = folder, manifest, files

    def __contains__(self, name: object) -> bool:
        return name in self._manifest["files"]

    def entries(self) -> list[Entry]:
        """What the manifest knows of each file."""
        return list(self._manifest["files"].values())

    def verify(self) -> None:
        """Compare every file with the manifest, sizes first; :class:`StorageError` names the first that differs."""
        for name in self._files:
            self._require_size(name)
        for name, file in self._files.items():
            path = self.path / name
            if digest_of(file, path) != self._manifest["files"][name]["sha256"]:
                self._require_own_seal(name, read_open(file, path))

    def read_bytes(self, name: str) -> bytes:
        """One file."""
        require_listed(self._manifest, name, self.path)
        self._require_size(name)
        raw = read_open(self._files[name], self.path / name)
        if sha256(raw) != self._manifest["files"][name]["sha256"]:
            self._require_own_seal(name, raw)
        return raw

    def read_json(self, name: str) -> Any:
        """A file written from plain data."""
        return decode_json(self.read_bytes(name), self.path / name)

    def read_tree(self, name: str) -> Any:
        """A file written from a tree of tensors."""
        return decode_tree(self.read_bytes(name), self.path / name)

    def _require_size(self, name: str) -> None:
        """A checkpoint may have replaced the state, whose own header then says how long it is."""
        size = None if name == STATE else self._manifest["files"][name].get("size")
        require_size(self._files[name], self.path / name, size)

    def _require_own_seal(self, name: str, raw: bytes) -> None:
        """It is not what the manifest knows: only the state, which a later checkpoint replaces, vouches for itself."""
        path = self.path / name
        if name != STATE:
            raise StorageError(path, "the content does not match the manifest; the file is damaged or was changed")
        check_tree(raw, path)


@contextmanager
def snapshot(folder: Path, names: Iterable[str] | None = None) -> Iterator[Snapshot]:
    """The last save that was committed; ``names``: of these files alone.

    Raises:
        StorageError: a file is missing or no plain file, or saves follow so closely that none can be had whole.
    """
    wanted = None if names is None else list(names)
    for attempt in range(TRIES):
        manifest, identity = read_manifest(folder)
        with ExitStack() as opened:
            try:
                files = {
                    name: opened.enter_context(open_now(folder, manifest, name))
                    for name in (manifest["files"] if wanted is None else wanted)
                }
            except StorageError:
                if identity_of(folder) == identity:
                    raise
            else:
                if identity_of(folder) == identity:
                    yield Snapshot(folder, manifest, files)
                    return
        time.sleep(min(attempt, 10) / 10 * _PAUSE)
    raise StorageError(folder / MANIFEST, f"another process has saved here {TRIES} times while this one tried to read")


def place_now(folder: Path, manifest: Manifest, name: str) -> Path:
    """Where a file of the save is now: at its staged name, while there is one, or in its place."""
    require_listed(manifest, name, folder)
    staged = manifest["files"][name].get("staged")
    if staged is not None and (path := require_plain_name(folder, staged)).exists():
        return path
    return require_plain_name(folder, name)


def open_now(folder: Path, manifest: Manifest, name: str) -> BinaryIO:
    """Open a file of the save; one that is moved from its staged name to its place meanwhile is found there."""
    place = place_now(folder, manifest, name)
    try:
        return open_plain(place)
    except StorageError:
        moved = place_now(folder, manifest, name)
        if moved == place:
            raise
        return open_plain(moved)


def require_listed(manifest: Manifest, name: str, folder: Path) -> None:
    """Raise :class:`StorageError` for a file that is none of the save's."""
    if name not in manifest["files"]:
        require_inside(name, folder)
        listed = ", ".join(sorted(manifest["files"]))
        raise StorageError(folder / name, f"is not part of this run; it has {listed}")
