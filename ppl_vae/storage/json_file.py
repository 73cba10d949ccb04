"""JSON files that know their own digest and version; infinities and NaN survive, which plain JSON forbids."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppl_vae.storage.atomic import atomic_write
from ppl_vae.storage.digest import UNSEALED, check_seal, seal
from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.reading import JSON_LIMIT, read_bytes

VERSION = 1


def write_json(path: str | Path, value: Any) -> None:
    """Write plain data (dict, list, None, bool, int, float, str) to ``path`` atomically, sealed with its
    digest.
    """
    atomic_write(path, encode_json(value))


def read_json(path: str | Path) -> Any:
    """Read what :func:`write_json` wrote; :class:`StorageError` names the file if one byte of it has
    changed.
    """
    return decode_json(read_bytes(path), path)


def encode_json(value: Any) -> bytes:
    """The sealed file for ``value``.

    >>> decode_json(encode_json({"epochs": 3, "best": float("-inf")}))
    {'epochs': 3, 'best': -inf}
    """
    document = {"sha256": UNSEALED, "format_version": VERSION, "content": to_plain(value)}
    return seal(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def decode_json(raw: bytes, path: str | Path = "<bytes>") -> Any:
    """The value in ``raw``; ``path`` is for the message of the :class:`StorageError`."""
    document = parse(raw, path)
    if not isinstance(document, dict) or "sha256" not in document:
        raise StorageError(path, "not a file of ppl_vae (it has no digest)")
    check_seal(raw, document["sha256"], path)
    check_version(document.get("format_version"), VERSION, path)
    try:
        return from_plain(document["content"])
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        raise StorageError(path, "the content has a form that this version does not know") from None


def parse(raw: bytes, path: str | Path) -> Any:
    """``json.loads`` of so much that a memory takes it, with an error that names the file."""
    if len(raw) > JSON_LIMIT:
        raise StorageError(path, f"at most {JSON_LIMIT} bytes of JSON are read, got {len(raw)}")
    try:
        return json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise StorageError(path, "not valid JSON; the file is truncated, damaged or of another kind") from None


def _no_constant(name: str) -> Any:
    """NaN and infinities stand as tagged values; bare, they are no JSON."""
    raise ValueError(name)


def check_version(found: object, known: int | str, path: str | Path) -> None:
    """Raise :class:`StorageError` unless the file has the format version that this code writes."""
    if found != known:
        raise StorageError(path, f"format version {found!r}; this ppl_vae reads version {known}")


# Plain data <-> what strict JSON can say. A dict whose one key begins with "$" is a tagged value, and a kind
# of leaf that this file does not know (a tensor) brings its own tag.

Leaf = Callable[[Any, str], Any]
Tags = Mapping[str, Callable[[Any], Any]]


def refuse(value: Any, where: str) -> Any:
    """The leaf of plain JSON: there is no other kind."""
    kinds = "a dict, list, tuple, None, bool, int, float or str"
    raise TypeError(f"{where} must be {kinds} to be saved, got {type(value).__name__}")


def to_plain(value: Any, where: str = "value", leaf: Leaf = refuse) -> Any:
    """``value`` in strict JSON; ``leaf(value, where)`` writes what is of none of the plain types."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list | tuple):
        return [to_plain(item, f"{where}[{i}]", leaf) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return _dict_to_plain(value, where, leaf)
    return leaf(value, where)


def _dict_to_plain(value: dict[Any, Any], where: str, leaf: Leaf) -> dict[str, Any]:
    items = {key: to_plain(item, f"{where}[{key!r}]", leaf) for key, item in value.items()}
    if all(isinstance(key, str) and not key.startswith("$") for key in items):
        return items
    # optimizer states are keyed by int, which JSON would turn into str
    return {"$dict": [[_plain_key(key, where), item] for key, item in items.items()]}


def _plain_key(key: Any, where: str) -> Any:
    if not isinstance(key, str | int):
        raise TypeError(f"a key of {where} must be str or int to be saved, got {key!r}")
    return key


def _no_finite(words: Any) -> float:
    """A number that JSON has none for: an infinity or NaN, as a text."""
    if words not in ("inf", "-inf", "nan"):
        raise ValueError(words)
    return float(words)


def from_plain(value: Any, tags: Tags | None = None) -> Any:
    """The inverse of :func:`to_plain` (tuples come back as lists); ``tags`` reads the tags of other
    leaves.
    """
    if isinstance(value, list):
        return [from_plain(item, tags) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: from_plain(item, tags) for key, item in value.items()}
    if tag == "$float":
        return _no_finite(value[tag])
    if tag == "$dict":
        return {key: from_plain(item, tags) for key, item in value[tag]}
    return (tags or {})[tag](value[tag])
