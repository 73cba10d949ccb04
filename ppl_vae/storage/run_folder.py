"""A run folder: files that are saved together, so that a reader finds all of the old ones or all of the new.

A save goes through four steps, and a process killed in any of them leaves a folder that loads:

1. *stage*: every new file is written beside its place under a hidden name and flushed to disk;
2. *commit*: the manifest is replaced by one with the new digests and, for each new file, its staged name;
3. *settle*: the staged files are renamed into place, files no longer listed are removed;
4. *close*: the manifest is replaced by one without staged names.

Before step 2 the old files are all there under their own names; from step 2 on the new ones are, at the
staged name or, if it is gone, at their own. So readers repair nothing, and the next save first finishes the
one before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ppl_vae.storage.atomic import STAGED, flush_folder, staged_path, write_and_flush
from ppl_vae.storage.digest import sha256
from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.json_file import encode_json, write_json
from ppl_vae.storage.lock import LOCK, locked
from ppl_vae.storage.manifest import MANIFEST, Entry, Manifest, identity_of, names_in, read_manifest, require_inside
from ppl_vae.storage.patience import patiently
from ppl_vae.storage.plain_file import is_plain, require_plain_name
from ppl_vae.storage.snapshot import STATE, Snapshot, place_now, snapshot
from ppl_vae.storage.tree import encode_tree

Content = Any  # bytes | str | Callable[[Path], object] | plain data (.json) | a tree of tensors (.safetensors)

WAIT = 10.0
"""Seconds that a save waits for another one in the same folder."""


class RunFolder:
    """The folder of one run: a manifest with the digest of every file, and those files.

    The names that ppl_vae itself writes are the class attributes (``RunFolder.MODEL``, ...); any other name
    may be added. One process writes at a time, which a lock sees to; any number may read, and each finds one save
    whole. ``STATE`` may also be replaced on its own by :func:`~ppl_vae.storage.save_tree`, as a run in progress does at
    each checkpoint.

    Args:
        path: the folder; nothing is touched before :meth:`write`.
    """

    CONFIG = "config.json"
    MODEL = "model.safetensors"
    STATE = STATE
    HISTORY = "history.csv"
    ENVIRONMENT = "environment.json"
    POSTERIOR = "posterior.nc"
    README = "README.md"
    PLOTS = "plots"
    MANIFEST = MANIFEST
    CHECKPOINT = "checkpoint"  # a folder of a run in progress; no part of a save

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # reading

    def exists(self) -> bool:
        """Whether a save has ever been committed here."""
        return os.path.lexists(self.path / self.MANIFEST)  # a link to nowhere too: what it is, its reader says

    def names(self) -> list[str]:
        """The files of the last committed save, relative to the folder."""
        return sorted(self._manifest()["files"])

    def __contains__(self, name: object) -> bool:
        return name in self._manifest()["files"]

    def snapshot(self, names: Iterable[str] | None = None) -> AbstractContextManager[Snapshot]:
        """The last committed save as it is now, whatever is saved after it: for a reader of several files.

        Args:
            names: of these files alone; None for all.
        """
        return snapshot(self.path, names)

    def verify(self) -> None:
        """Compare every file with the manifest; :class:`StorageError` names the first that is missing or
        differs.
        """
        with self.snapshot() as saved:
            saved.verify()

    def read_bytes(self, name: str) -> bytes:
        """One file of the last committed save, compared with the manifest."""
        with self.snapshot([name]) as saved:
            return saved.read_bytes(name)

    def read_text(self, name: str) -> str:
        """A text file (UTF-8)."""
        return self.read_bytes(name).decode()

    def read_json(self, name: str) -> Any:
        """A file written from plain data."""
        with self.snapshot([name]) as saved:
            return saved.read_json(name)

    def read_tree(self, name: str) -> Any:
        """A file written from a tree of tensors; see :func:`~ppl_vae.storage.load_tree`."""
        with self.snapshot([name]) as saved:
            return saved.read_tree(name)

    def checked_path(self, name: str) -> Path:
        """Where the file is, after comparing it with the manifest: for readers that want a path."""
        self.read_bytes(name)
        return place_now(self.path, self._manifest(), name)

    # writing

    def claim(self, *, overwrite: bool = False) -> RunFolder:
        """Make the folder, or refuse; called before a long computation whose result goes here.

        What is in it stays until the next :meth:`write` is committed.

        Raises:
            FileExistsError: there is a run here and ``overwrite`` is False, or there are files that are not
                of a run.
        """
        occupied = self.path.exists() and (not self.path.is_dir() or any(p.name != LOCK for p in self.path.iterdir()))
        if occupied and not self._is_a_run():
            raise FileExistsError(f"{self.path}: exists and is not a run folder; choose another place")
        if occupied and self.exists() and not overwrite:
            raise FileExistsError(
                f"{self.path}: there is a run here already; overwrite it explicitly or choose another place"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def alone(self, *, wait: float = WAIT) -> AbstractContextManager[None]:
        """Let nobody else write here for the time, and be told who does; see :func:`~ppl_vae.storage.locked`."""
        return locked(self.path, wait=wait)

    def write(self, files: Mapping[str, Content], *, keep: bool = True) -> None:
        """Save ``files`` together: after a crash at any point the folder holds all of the old ones, or all of
        the new.

        Args:
            files: by name relative to the folder (``"plots/history.png"``). A value is bytes, text, a
                function that writes to the path it is given (it ends in the suffix of the name), plain data
                for a name in ``.json``, or a tree of tensors for a name in ``.safetensors``.
            keep: whether files of the previous save that are not in ``files`` stay.

        Raises:
            FolderInUse: another process is writing here, and has not ended in 10 seconds.
            WriteError: a file could not be written, which did not pass; all is as it was.
            StorageError: what bears the name of a file is a pipe, a device, or a link out of the folder.
        """
        patiently(self.path, partial(self.path.mkdir, parents=True, exist_ok=True))
        with self.alone():
            before = self._settled(damaged_is_empty=not keep)
            require_plain_name(self.path, MANIFEST)  # what is no plain file is refused before anything is written
            for name in (*files, *before["files"]):
                self._place(name)
            committed = identity_of(self.path)
            try:
                staged = self._stage(files)
                kept = before["files"] if keep else {}
                after = Manifest(
                    files={**kept, **staged},
                    obsolete=sorted(set(before["files"]) - set(kept) - set(staged)),
                )
                self._replace_manifest(after)
            except BaseException:
                if identity_of(self.path) == committed:  # else the manifest speaks of what was staged
                    with suppress(OSError):
                        self._remove_staged()
                raise
            patiently(self.path, partial(self._settle, after))

    # the steps of a save

    def _stage(self, files: Mapping[str, Content]) -> dict[str, Entry]:
        staged: dict[str, Entry] = {}
        for name, content in files.items():
            target = staged_path(self._place(name))
            patiently(target.parent, partial(target.parent.mkdir, parents=True, exist_ok=True))
            known = patiently(self.path / name, partial(_write, target, name, content))
            staged[name] = Entry(**known, staged=target.relative_to(self.path).as_posix())
        patiently(self.path, partial(self._flush, staged))
        return staged

    def _replace_manifest(self, manifest: Manifest) -> None:
        write_json(self.path / self.MANIFEST, manifest)

    def _settle(self, manifest: Manifest) -> Manifest:
        for name, entry in manifest["files"].items():
            if "staged" in entry and (staged := self._place(entry["staged"])).exists():
                os.replace(staged, self._place(name))
        for name in manifest["obsolete"]:
            self._place(name).unlink(missing_ok=True)
        self._flush(manifest["files"])
        settled = Manifest(files={name: _in_place(entry) for name, entry in manifest["files"].items()}, obsolete=[])
        if settled != manifest:
            self._replace_manifest(settled)
        return settled

    def _settled(self, *, damaged_is_empty: bool) -> Manifest:
        """The manifest after finishing a save that was cut off; what one that was never committed has left is
        removed.
        """
        manifest = Manifest(files={}, obsolete=[])
        try:
            if self.exists():
                manifest = self._manifest()
        except StorageError:
            if not damaged_is_empty:
                raise
        for name in names_in(manifest):
            self._place(name)
        if manifest["files"] or manifest["obsolete"]:
            manifest = patiently(self.path, partial(self._settle, manifest))
        self._remove_staged()
        return manifest

    def _remove_staged(self) -> None:
        for leftover in self.path.rglob(f"{STAGED}*"):
            if is_plain(leftover):
                leftover.unlink(missing_ok=True)

    def _flush(self, names: Mapping[str, Any]) -> None:
        for folder in {self._place(name).parent for name in names} | {self.path}:
            if folder.exists():  # a reader may have removed plots/
                flush_folder(folder)

    # the manifest and what it lists

    def _manifest(self) -> Manifest:
        return read_manifest(self.path)[0]

    def _place(self, name: str) -> Path:
        require_inside(name, self.path)
        return require_plain_name(self.path, name)

    def _is_a_run(self) -> bool:
        """A run, or what one that was cut off before its first save has left: a checkpoint, staged files."""
        if not self.path.is_dir():
            return False
        return self.exists() or all(self._is_left_over(path) for path in self.path.rglob("*"))

    def _is_left_over(self, path: Path) -> bool:
        first = path.relative_to(self.path).parts[0]
        known = first in (self.STATE, self.CHECKPOINT, self.PLOTS, LOCK)
        return known or path.name.startswith(STAGED)


def _in_place(entry: Entry) -> Entry:
    """What the manifest knows of a file that has been renamed."""
    known = entry.copy()
    known.pop("staged", None)
    return known


def _entry(raw: bytes) -> Entry:
    return Entry(sha256=sha256(raw), size=len(raw))


def _write(target: Path, name: str, content: Content) -> Entry:
    """Write one staged file and flush it; return its digest and size. Nothing is left of it where this fails."""
    try:
        if not callable(content):
            raw = _encode(name, content)
            write_and_flush(target, raw)
            return _entry(raw)
        content(target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
        return _entry(target.read_bytes())
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


def _encode(name: str, content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    encoders: dict[str, Callable[[Any], bytes]] = {".json": encode_json, ".safetensors": encode_tree}
    suffix = PurePosixPath(name).suffix
    if suffix not in encoders:
        raise TypeError(f"{name}: must be bytes, str or a function that writes it, got {type(content).__name__}")
    return encoders[suffix](content)
