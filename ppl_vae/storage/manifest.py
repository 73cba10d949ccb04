"""The manifest of a run folder: what belongs to its last save, by name, with the digest and the size of each file."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.form import each, kind, record, require_form, table, text, whole
from ppl_vae.storage.json_file import decode_json
from ppl_vae.storage.plain_file import open_plain, require_plain_name
from ppl_vae.storage.reading import read_open

MANIFEST = "manifest.json"


class Entry(TypedDict, total=False):
    """What the manifest knows of one file."""

    sha256: str
    size: int  # bytes; absent in folders of earlier builds
    staged: str  # its name while a save is under way; absent when the file is in place


class Manifest(TypedDict):
    """The content of ``manifest.json``."""

    files: dict[str, Entry]  # by path relative to the folder, with forward slashes
    obsolete: list[str]  # to be removed by the save that is under way


_HEX = re.compile("[0-9a-f]{64}")

Identity = tuple[int, ...]
"""Which file it was that bore the name: another save has put another one in its place."""

_DIGEST = kind("64 hexadecimal digits", lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value)))
_FORM = record(files=table(record({"staged": text, "size": whole()}, sha256=_DIGEST)), obsolete=each(text))


def read_manifest(folder: Path) -> tuple[Manifest, Identity]:
    """The manifest, and which file it was.

    Raises:
        StorageError: there is none, it is damaged or of another form, or it names a file outside of the folder.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise StorageError(path, "no such file; this is not a run folder, or its first save was cut off")
    with open_plain(require_plain_name(folder, MANIFEST)) as file:
        content = decode_json(read_open(file, path), path)
        identity = _identity(os.fstat(file.fileno()))
    try:
        require_form(content, _FORM, path)
    except StorageError as error:
        problem = str(error).removeprefix(f"{path}: ")
        raise StorageError(path, f"the content is not that of a manifest ({problem})") from None
    for name in names_in(content):
        require_inside(name, folder)
    return Manifest(files=content["files"], obsolete=content["obsolete"]), identity


def identity_of(folder: Path) -> Identity | None:
    """Which file bears the name now; None where there is none."""
    try:
        return _identity(os.stat(folder / MANIFEST))
    except OSError:
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def names_in(manifest: Any) -> list[str]:
    """Every name that a manifest speaks of."""
    staged = [entry["staged"] for entry in manifest["files"].values() if "staged" in entry]
    return [*manifest["files"], *staged, *manifest["obsolete"]]


def require_inside(name: object, folder: Path) -> None:
    """Raise :class:`StorageError` unless this names a file inside a folder, and not the manifest."""
    if not _is_inside(name):
        raise StorageError(folder / MANIFEST, f"{name!r} is not the name of a file inside the folder")


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or not name or "\\" in name or ":" in name or "\0" in name:
        return False
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and bool(parts) and parts != (MANIFEST,)
