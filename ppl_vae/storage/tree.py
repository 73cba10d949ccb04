"""A tree of tensors and plain values in one safetensors file.

The tensors are ordinary entries ``t0, t1, ...`` that any safetensors reader opens; the skeleton, with a
reference in the place of each tensor, is JSON in the file's metadata. Tensors that share memory are written
once and share it again when they come back.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.storage.atomic import atomic_write
from ppl_vae.storage.digest import UNSEALED, check_seal, seal
from ppl_vae.storage.errors import StorageError
from ppl_vae.storage.json_file import check_version, from_plain, parse, refuse, to_plain
from ppl_vae.storage.reading import read_bytes

if TYPE_CHECKING:  # torch takes a second to import, and a folder can be checked without it
    from torch import Tensor

VERSION = 1
_REPEATS, _SMALL = 100, 1 << 20  # a view may repeat its numbers so often, or have so many


def save_tree(path: str | Path, tree: Any) -> None:
    """Write ``tree`` to ``path`` atomically.

    Args:
        path: the file; its folder must exist.
        tree: dicts, lists and tuples (back as lists), nested, of tensors, None, bool, int, float (infinities
            and NaN too) and str. Tensors may have any shape, 0-dim and empty included; their dtype and shape
            are kept, the device and ``requires_grad`` are not.

    Raises:
        TypeError: a value of another type, with its place in the tree.
    """
    atomic_write(path, encode_tree(tree))


def load_tree(path: str | Path) -> Any:
    """Read what :func:`save_tree` wrote, on the CPU; :class:`StorageError` names the file if one byte has
    changed.
    """
    return decode_tree(read_bytes(path), path)


def encode_tree(tree: Any) -> bytes:
    """The sealed safetensors file for ``tree``."""
    from safetensors.torch import save

    ledger = _Ledger()
    plain = to_plain(tree, "tree", ledger)
    entries = ledger.settle()
    skeleton = json.dumps(plain, allow_nan=False)
    raw = save(entries, {"sha256": UNSEALED, "format_version": str(VERSION), "tree": skeleton})
    return seal(_with_sorted_header(raw))


def _with_sorted_header(raw: bytes) -> bytes:
    """The same file with its header in one order: safetensors' own differs from process to process."""
    size = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def decode_tree(raw: bytes, path: str | Path = "<bytes>") -> Any:
    """The tree in ``raw``; ``path`` is for the message of the :class:`StorageError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    skeleton = parse(check_tree(raw, path)["tree"].encode(), path)
    try:
        entries = load(raw)
        return from_plain(skeleton, {"$tensor": lambda reference: _resolve(reference, entries)})
    except (
        SafetensorError,
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
    ):  # RecursionError is a RuntimeError
        raise StorageError(path, "the content has a form that this version does not know") from None


def check_tree(raw: bytes, path: str | Path) -> dict[str, str]:
    """Raise :class:`StorageError` unless ``raw`` is a whole file of this version; return its metadata."""
    metadata = _metadata(raw, path)
    check_seal(raw, metadata.get("sha256"), path)
    check_version(metadata.get("format_version"), str(VERSION), path)
    return metadata


def _metadata(raw: bytes, path: str | Path) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file: 8 bytes of length, then a header in JSON."""
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > len(raw) - 8:
        raise StorageError(path, "not a safetensors file, or a truncated one")
    header = parse(raw[8 : 8 + size], path)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("tree"), str):
        raise StorageError(path, "not a tree of ppl_vae (its metadata has no skeleton)")
    return metadata


class _Ledger:
    """The tensors met on the walk through a tree, each with the reference that stands for it in the skeleton.

    A reference is ``[name]``, or ``[name, size, stride, offset]`` for one of several views of the same
    memory. It can be filled in only when all tensors have been seen, so the walk leaves an empty list and
    :meth:`settle` fills it.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, list[Any]]] = []

    def __call__(self, value: Any, where: str) -> dict[str, list[Any]]:
        reference: list[Any] = []
        self._rows.append((_storable(value, where), reference))
        return {"$tensor": reference}

    def settle(self) -> dict[str, Tensor]:
        """Fill in the references; return the tensors to be written, by name."""
        shared: dict[Any, list[tuple[Tensor, list[Any]]]] = {}
        for tensor, reference in self._rows:
            shared.setdefault(_memory(tensor), []).append((tensor, reference))
        return {f"t{i}": _settle_one(f"t{i}", rows) for i, rows in enumerate(shared.values())}


def _settle_one(name: str, rows: list[tuple[Tensor, list[Any]]]) -> Tensor:
    first = rows[0][0]
    if all(_geometry(tensor) == _geometry(first) for tensor, _ in rows):
        for _, reference in rows:
            reference.append(name)
        return first.cpu().contiguous().clone()
    start = min(tensor.storage_offset() for tensor, _ in rows)
    stop = max(_last_element(tensor) for tensor, _ in rows) + 1
    for tensor, reference in rows:
        reference.extend([name, list(tensor.shape), list(tensor.stride()), tensor.storage_offset() - start])
    return first.as_strided((stop - start,), (1,), start).cpu().clone()


def _resolve(reference: list[Any], entries: dict[str, Tensor]) -> Tensor:
    name, *geometry = reference
    if not geometry:
        return entries[name]
    size, _, _ = geometry
    if math.prod(size) > max(entries[name].numel() * _REPEATS, _SMALL):
        raise ValueError("a view of a few numbers that would fill the memory")
    return entries[name].as_strided(*geometry)


def _storable(value: Any, where: str) -> Tensor:
    """``value`` as a tensor that safetensors can hold, or a TypeError with its place in the tree."""
    import torch

    if not isinstance(value, torch.Tensor):
        refuse(value, where)
    if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.dtype == torch.complex128:
        kind = f"{value.dtype} {value.layout} tensor on {value.device}"
        raise TypeError(f"{where} must be a dense tensor of a dtype that safetensors knows, got a {kind}")
    return value.detach().resolve_conj().resolve_neg()


def _memory(tensor: Tensor) -> Any:
    """What two tensors have in common when they share memory; an empty one shares with none."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.untyped_storage().data_ptr(), tensor.device, tensor.dtype


def _geometry(tensor: Tensor) -> Any:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _last_element(tensor: Tensor) -> int:
    steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + sum(steps))
