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
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from ppl_vae.storage.atomic import STAGED, flush_folder, staged_path, write_and_flush
from ppl_vae.storage.digest import sha256
from ppl_vae.storage.errors import StorageError, read_bytes
from ppl_vae.storage.json_file import decode_json, encode_json, read_json, write_json
from ppl_vae.storage.tree import check_tree, decode_tree, encode_tree

Content = Any  # bytes | str | Callable[[Path], object] | plain data (.json) | a tree of tensors (.safetensors)


class Entry(TypedDict, total=False):
    """What the manifest knows of one file."""

    sha256: str
    staged: str  # its name while a save is under way; absent when the file is in place


class Manifest(TypedDict):
    """The content of ``manifest.json``."""

    files: dict[str, Entry]  # by path relative to the folder, with forward slashes
    obsolete: list[str]  # to be removed by the save that is under way


class RunFolder:
    """The folder of one run: a manifest with the digest of every file, and those files.

    The names that ppl_vae itself writes are the class attributes (``RunFolder.MODEL``, ...); any other name
    may be added. One process writes at a time; any number may read. ``STATE`` may also be replaced on its own
    by :func:`~ppl_vae.storage.save_tree`, as a run in progress does at each checkpoint.

    Args:
        path: the folder; nothing is touched before :meth:`write`.
    """

    CONFIG = "config.json"
    MODEL = "model.safetensors"
    STATE = "state.safetensors"
    HISTORY = "history.csv"
    ENVIRONMENT = "environment.json"
    POSTERIOR = "posterior.nc"
    README = "README.md"
    PLOTS = "plots"
    MANIFEST = "manifest.json"
    CHECKPOINT = "checkpoint"  # a folder of a run in progress; no part of a save

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # reading

    def exists(self) -> bool:
        """Whether a save has ever been committed here."""
        return (self.path / self.MANIFEST).exists()

    def names(self) -> list[str]:
        """The files of the last committed save, relative to the folder."""
        return sorted(self._manifest()["files"])

    def __contains__(self, name: object) -> bool:
        return name in self._manifest()["files"]

    def verify(self) -> None:
        """Compare every file with the manifest; :class:`StorageError` names the first that is missing or
        differs.
        """
        manifest = self._manifest()
        for name in manifest["files"]:
            self._checked(manifest, name)

    def read_bytes(self, name: str) -> bytes:
        """One file of the last committed save, compared with the manifest."""
        return self._checked(self._manifest(), name)[1]

    def read_text(self, name: str) -> str:
        """A text file (UTF-8)."""
        return self.read_bytes(name).decode()

    def read_json(self, name: str) -> Any:
        """A file written from plain data."""
        return decode_json(self.read_bytes(name), self.path / name)

    def read_tree(self, name: str) -> Any:
        """A file written from a tree of tensors; see :func:`~ppl_vae.storage.load_tree`."""
        return decode_tree(self.read_bytes(name), self.path / name)

    def checked_path(self, name: str) -> Path:
        """Where the file is, after comparing it with the manifest: for readers that want a path."""
        return self._checked(self._manifest(), name)[0]

    # writing

    def claim(self, *, overwrite: bool = False) -> RunFolder:
        """Make the folder, or refuse; called before a long computation whose result goes here.

        What is in it stays until the next :meth:`write` is committed.

        Raises:
            FileExistsError: there is a run here and ``overwrite`` is False, or there are files that are not
                of a run.
        """
        occupied = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if occupied and not self._is_a_run():
            raise FileExistsError(f"{self.path}: exists and is not a run folder; choose another place")
        if occupied and self.exists() and not overwrite:
            raise FileExistsError(
                f"{self.path}: there is a run here already; overwrite it explicitly or choose another place"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, files: Mapping[str, Content], *, keep: bool = True) -> None:
        """Save ``files`` together: after a crash at any point the folder holds all of the old ones, or all of
        the new.

        Args:
            files: by name relative to the folder (``"plots/history.png"``). A value is bytes, text, a
                function that writes to the path it is given (it ends in the suffix of the name), plain data
                for a name in ``.json``, or a tree of tensors for a name in ``.safetensors``.
            keep: whether files of the previous save that are not in ``files`` stay.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        before = self._settled(damaged_is_empty=not keep)
        staged = self._stage(files)
        kept = before["files"] if keep else {}
        after = Manifest(
            files={**kept, **staged},
            obsolete=sorted(set(before["files"]) - set(kept) - set(staged)),
        )
        self._replace_manifest(after)
        self._settle(after)

    # the steps of a save

    def _stage(self, files: Mapping[str, Content]) -> dict[str, Entry]:
        staged: dict[str, Entry] = {}
        try:
            for name, content in files.items():
                target = staged_path(self._place(name))
                staged[name] = Entry(staged=target.relative_to(self.path).as_posix())
                target.parent.mkdir(parents=True, exist_ok=True)
                staged[name]["sha256"] = _write(target, name, content)
        except BaseException:
            for entry in staged.values():
                (self.path / entry["staged"]).unlink(missing_ok=True)
            raise
        self._flush(staged)
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
        settled = Manifest(files={n: Entry(sha256=e["sha256"]) for n, e in manifest["files"].items()}, obsolete=[])
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
                manifest = self._settle(self._manifest())
        except StorageError:
            if not damaged_is_empty:
                raise
        for leftover in self.path.rglob(f"{STAGED}*"):
            leftover.unlink(missing_ok=True)
        return manifest

    def _flush(self, names: Mapping[str, Any]) -> None:
        for folder in {self._place(name).parent for name in names} | {self.path}:
            if folder.exists():  # a reader may have removed plots/
                flush_folder(folder)

    # the manifest and what it lists

    def _manifest(self) -> Manifest:
        path = self.path / self.MANIFEST
        if not path.exists():
            raise StorageError(path, "no such file; this is not a run folder, or its first save was cut off")
        manifest = read_json(path)
        if not _is_manifest(manifest):
            raise StorageError(path, "the content is not that of a manifest")
        return Manifest(files=manifest["files"], obsolete=manifest["obsolete"])

    def _checked(self, manifest: Manifest, name: str) -> tuple[Path, bytes]:
        if name not in manifest["files"]:
            raise StorageError(
                self.path / name, f"is not part of this run; it has {', '.join(sorted(manifest['files']))}"
            )
        entry = manifest["files"][name]
        path = self._place(entry["staged"]) if "staged" in entry else self._place(name)
        path = path if path.exists() else self._place(name)
        raw = read_bytes(path)
        if sha256(raw) == entry["sha256"]:
            return path, raw
        if name == self.STATE:  # a later checkpoint: it is replaced by itself, and vouches for itself
            check_tree(raw, path)
            return path, raw
        raise StorageError(path, "the content does not match the manifest; the file is damaged or was changed")

    def _place(self, name: str) -> Path:
        if not _is_inside(name):
            raise StorageError(self.path / self.MANIFEST, f"{name!r} is not the name of a file inside the folder")
        return self.path / name

    def _is_a_run(self) -> bool:
        """A run, or what one that was cut off before its first save has left: a checkpoint, staged files."""
        if not self.path.is_dir():
            return False
        return self.exists() or all(self._is_left_over(path) for path in self.path.rglob("*"))

    def _is_left_over(self, path: Path) -> bool:
        first = path.relative_to(self.path).parts[0]
        known = first in (self.STATE, self.CHECKPOINT, self.PLOTS)
        return known or path.name.startswith(STAGED)


def _write(target: Path, name: str, content: Content) -> str:
    """Write one staged file and flush it; return its digest."""
    if callable(content):
        content(target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
        return sha256(target.read_bytes())
    raw = _encode(name, content)
    write_and_flush(target, raw)
    return sha256(raw)


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


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or not name or "\\" in name or ":" in name:
        return False
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and parts != (RunFolder.MANIFEST,)


def _is_manifest(value: Any) -> bool:
    try:
        entries = value["files"].items()
        return isinstance(value["obsolete"], list) and all(
            isinstance(entry["sha256"], str) and isinstance(entry.get("staged", ""), str) for _, entry in entries
        )
    except (AttributeError, KeyError, TypeError):
        return False
