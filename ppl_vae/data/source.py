"""Where rows come from, one block at a time: whatever has a length and gives the rows of an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from ppl_vae.data.reading import Reader
from ppl_vae.data.rows import Batch, Column, Rows

__all__ = ["Source", "Stored", "source_of", "whole"]

LARGE = 1 << 26
"""Bytes from which on a data frame stays as it is, and is turned into tensors a batch at a time."""


@runtime_checkable
class Source(Protocol):
    """N rows, of which some can be had. :class:`Rows` is one, in memory; :class:`Stored` reads them when asked.

    Implementing a new one: ``len``, ``take`` and ``columns`` are what training and evaluation ask for; ``to`` and
    ``batch`` follow :class:`Rows`.
    """

    def __len__(self) -> int:
        """N."""
        ...

    def take(self, index: Tensor | slice) -> Rows:
        """The rows at ``index`` (a slice, or row numbers (B,)), in memory; they remember their numbers."""
        ...

    @property
    def index(self) -> Tensor | None:
        """The numbers that the rows have in a larger whole; None for a whole."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """What a row consists of."""
        ...

    def to(self, *, device: Any = None, dtype: torch.dtype | None = None) -> Source:
        """The same rows on a device, fractions in a precision."""
        ...

    def batch(self, *, num_data: int | None = None) -> Batch:
        """All rows at once, as one :class:`Batch`."""
        ...


@dataclass(frozen=True)
class Stored:
    """Rows that stay where they are (a memory map, a large frame, a data set); what is taken is copied and checked.

    Args:
        fetch: the rows at some numbers (an integer array, or a slice), in any form that :meth:`Rows.of` takes.
        size: N.
        device, dtype: where what is taken goes, and in what precision.
        kind: "arrays" whose rows stay what they are, or the "items" of a data set, which may be made anew in each call.
        files: where arrays lie that are memory maps.
    """

    fetch: Callable[[Any], Any]
    size: int
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    name: str = "data"
    kind: str = "items"
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.size

    def take(self, index: Tensor | slice) -> Rows:
        """The rows at ``index``, in memory.

        Raises:
            ValueError: a number is NaN; it is named by its row in the whole, and its column.
        """
        if isinstance(index, slice):
            numbers = torch.arange(*index.indices(self.size))
            place: Any = slice(*index.indices(self.size))
        else:
            numbers = index.cpu()
            place = numbers.numpy()
        found = Rows.of(self.fetch(place), name=self.name, dtype=self.dtype, numbers=numbers)
        return found.to(device=self.device, dtype=self.dtype)

    @property
    def index(self) -> Tensor | None:
        """None: the rows are a whole."""
        return None

    @property
    def columns(self) -> tuple[Column, ...]:
        """What a row consists of, read off the first."""
        return self.take(slice(0, 1)).columns

    def to(self, *, device: Any = None, dtype: torch.dtype | None = None) -> Stored:
        """The same source, whose rows come to a device, fractions in a precision."""
        return replace(self, device=device or self.device, dtype=dtype or self.dtype)

    def batch(self, *, num_data: int | None = None) -> Batch:
        """All rows at once: everything is read into memory."""
        rows = self.take(slice(None))
        return Batch(rows.args, rows.kwargs, None, num_data if num_data is not None else self.size)


def source_of(data: Any, *, name: str = "data", dtype: torch.dtype | None = None) -> Source:
    """What a person gives, as a source of rows.

    Memory maps (``np.load(path, mmap_mode="r")``), data frames of 64 MiB and more, tuples and dictionaries that hold
    one of these, and map-style data sets stay where they are, and are read a batch at a time (all rows at once, where
    that is asked for, in blocks; a ``Subset`` or ``ConcatDataset`` of ``TensorDataset`` by its tensors). Everything
    else is copied into tensors once.

    Args:
        data: as for :meth:`Rows.of`; or a ``torch.utils.data.Dataset`` with a length, whose items are tensors, tuples
            or dictionaries.
        name: what errors call it.
        dtype: precision of fractions that are no tensors yet.

    Raises:
        ValueError: as :meth:`Rows.of`; and for a data set without a length.
    """
    if isinstance(data, Rows | Stored):
        return data
    if isinstance(data, Dataset) and not isinstance(data, TensorDataset):
        return _of_dataset(data, name, dtype)
    if not any(_stays(part) for part in _parts(data)):
        return Rows.of(data, name=name, dtype=dtype)
    return _of_arrays(data, name, dtype)


def _stays(part: Any) -> bool:
    """Is this a memory map, or a large frame?"""
    if isinstance(part, np.memmap):
        return True
    usage = getattr(part, "memory_usage", None)
    return hasattr(part, "iloc") and usage is not None and int(np.sum(usage(index=False))) >= LARGE


def _parts(data: Any) -> Sequence[Any]:
    if isinstance(data, Mapping):
        return list(data.values())
    return data if isinstance(data, tuple) else (data,)


def _at(part: Any, place: Any) -> Any:
    if hasattr(part, "iloc"):
        return part.iloc[place]
    return part[torch.as_tensor(place)] if isinstance(part, Tensor) and not isinstance(place, slice) else part[place]


def _of_arrays(data: Any, name: str, dtype: torch.dtype | None) -> Stored:
    lengths = [len(part) for part in _parts(data)]
    if len(set(lengths)) > 1:
        raise ValueError(f"{name}: all parts must have the same number of rows (axis 0), got {lengths}")

    def fetch(place: Any) -> Any:
        if isinstance(data, Mapping):
            return {key: _at(part, place) for key, part in data.items()}
        return tuple(_at(part, place) for part in data) if isinstance(data, tuple) else _at(data, place)

    files = tuple(str(part.filename) for part in _parts(data) if isinstance(part, np.memmap) and part.filename)
    return _begun(Stored(fetch, lengths[0], None, dtype, name, "arrays", files))


def _of_dataset(data: Any, name: str, dtype: torch.dtype | None) -> Stored:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise ValueError(
            f"{name}: a data set with a length and rows by number is required, got {type(data).__name__}, which lacks "
            "__len__ or __getitem__: define both (a map-style Dataset), or collect the rows, as in "
            "torch.stack(list(data))"
        )
    return _begun(Stored(Reader(data, name, dtype), len(data), None, dtype, name))


def _begun(source: Stored) -> Stored:
    """The source, of which a row has been read: what is wrong with its form is said now."""
    if not len(source):
        raise ValueError(f"{source.name}: at least one row is required, got none")
    source.take(slice(0, 1))
    return source


def whole(source: Source) -> Rows:
    """All rows, in memory."""
    return source if isinstance(source, Rows) else source.take(slice(None))
