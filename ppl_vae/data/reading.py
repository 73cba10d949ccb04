"""Rows of a map-style data set, read in blocks: what is held beside the result has a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate

from ppl_vae.data.arrays import native

__all__ = ["Reader", "taker_of"]

Take = Callable[[Tensor], tuple[Tensor, ...]]

BLOCK_BYTES = 1 << 24
"""So many bytes of rows are read as single objects before they are put in their place."""
BLOCK_ROWS = 1 << 12
"""And at most so many rows: each is an object of torch's, which weighs about a thousand bytes of its own."""


def taker_of(dataset: Any) -> Take | None:
    """Rows by number of a data set that is nothing but tensors, parts of them, and several in a row; None for others.

    Subclasses may give their rows in another way, and count as something else.

    >>> rows = TensorDataset(torch.arange(4.0))
    >>> taker_of(ConcatDataset([Subset(rows, [2, 0]), rows]))(torch.tensor([5, 0]))
    (tensor([3., 2.]),)
    """
    if type(dataset) is TensorDataset:
        return lambda index: tuple(tensor[index.to(tensor.device)] for tensor in dataset.tensors)
    if type(dataset) is Subset:
        whole, own = taker_of(dataset.dataset), torch.as_tensor(list(dataset.indices), dtype=torch.long)
        return None if whole is None else lambda index: whole(own[index])
    if type(dataset) is ConcatDataset:
        takers = [taker_of(part) for part in dataset.datasets]
        found = [take for take in takers if take is not None]
        return _one_after_the_other(found, dataset.cumulative_sizes) if len(found) == len(takers) else None
    return None


def _one_after_the_other(takers: list[Take], ends: Sequence[int]) -> Take:
    def take(index: Tensor) -> tuple[Tensor, ...]:
        which = torch.bucketize(index, torch.as_tensor(ends), right=True)
        order = which.argsort(stable=True)  # the rows of each part together, and then where they belong
        parts = [take(index[which == i] - (ends[i - 1] if i else 0)) for i, take in enumerate(takers)]
        return tuple(torch.cat(column)[order.argsort()] for column in zip(*parts, strict=True))

    return take


class Reader:
    """The rows of a data set at some numbers, collated by torch's rules.

    Args:
        dataset: with a length and ``__getitem__``; where it has ``__getitems__``, whole blocks are asked of it.
        name: what errors call it.
        dtype: precision of fractions; None: as they come.
    """

    def __init__(self, dataset: Dataset[Any], name: str, dtype: torch.dtype | None) -> None:
        self._dataset, self._name, self._dtype = dataset, name, dtype
        self._several: Callable[[list[int]], Any] | None = getattr(dataset, "__getitems__", None)
        self._take = taker_of(dataset)

    def __call__(self, place: Any) -> Any:
        """The rows at a slice, or at an array of numbers: a tensor, a tuple or a dictionary of tensors."""
        is_slice = isinstance(place, slice)
        numbers = range(*place.indices(len(self._dataset))) if is_slice else [int(i) for i in place]  # type: ignore[arg-type]
        if self._take is not None:
            return self._take(torch.as_tensor(numbers, dtype=torch.long))
        blocks = self._blocks(numbers)
        first = next(blocks, None)
        if first is None:  # no rows: torch says so
            return self._read(numbers)
        if len(_leaves(first)[0][1]) == len(numbers):
            return first
        whole = _mapped(first, lambda t: t.new_empty((len(numbers), *t.shape[1:])))
        start = 0
        for block in chain([first], blocks):
            start = self._put(whole, block, start, numbers)
        return whole

    def _blocks(self, numbers: Sequence[int]) -> Iterator[Any]:
        """The rows, block after block: the first one tells how large a row is."""
        start, size = 0, min(64, len(numbers))
        while start < len(numbers):
            found = self._read(numbers[start : start + size])
            leaves = _leaves(found)
            if not leaves or not all(isinstance(leaf, Tensor) for _, leaf in leaves):
                yield self._read(numbers)  # words or the like: no rows of numbers, and the caller says so
                return
            yield found
            start += size
            row = sum(leaf[0].numel() * leaf.element_size() for _, leaf in leaves)
            size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(row, 1)))

    def _read(self, numbers: Sequence[int]) -> Any:
        items = [self._dataset[i] for i in numbers] if self._several is None else self._several(list(numbers))
        found = _collated(items, numbers, self._name)
        found = tuple(found) if isinstance(found, list) else found
        return _mapped(found, self._in_precision)

    def _in_precision(self, part: Any) -> Any:
        return part.to(self._dtype) if isinstance(part, Tensor) and part.is_floating_point() else part

    def _put(self, whole: Any, block: Any, start: int, numbers: Sequence[int]) -> int:
        parts = dict(_leaves(block))
        end = start
        for key, target in _leaves(whole):
            part = parts.get(key)
            if not isinstance(part, Tensor) or part.shape[1:] != target.shape[1:]:
                raise _unlike(self._name, numbers[start], _form(part, 1), numbers[0], _form(target, 1))
            end = start + len(part)
            target[start:end] = part
        return end


def _collated(items: Sequence[Any], numbers: Sequence[int], name: str) -> Any:
    """The rows in one, by torch's rules.

    Raises:
        ValueError: a row is none, or has another form than the first; it is named by its number.
    """
    items = [_mapped(item, _held) for item in items]
    try:
        return default_collate(items)
    except (TypeError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        for number, item in zip(numbers, items, strict=False):
            if not _can_be_collated([item]):
                raise ValueError(
                    f"{name}: rows that are tensors, arrays or numbers, or tuples or dictionaries of these, are "
                    f"required, got {_form(item)} at row {number}"
                ) from error
            if not _can_be_collated([items[0], item]):
                raise _unlike(name, number, _form(item), numbers[0], _form(items[0])) from error
        raise


def _held(part: Any) -> Any:
    """An array in a form that torch holds: of this machine's byte order, with positive strides, a copy of its own."""
    return native(part) if isinstance(part, np.ndarray) and part.dtype.kind in "fiub" else part


def _can_be_collated(items: list[Any]) -> bool:
    try:
        default_collate(items)
    except (TypeError, RuntimeError, ValueError, KeyError, AttributeError):
        return False
    return True


def _unlike(name: str, row: int, came: str, first: int, required: str) -> ValueError:
    return ValueError(f"{name}: rows of one form are required, got {came} at row {row}, and {required} at row {first}")


def _form(item: Any, rows: int = 0) -> str:
    """A row in words; of several in one, the first ``rows`` axes are not counted."""
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{key!r}: {_form(value, rows)}" for key, value in item.items()) + "}"
    if isinstance(item, tuple | list):
        return "(" + ", ".join(_form(value, rows) for value in item) + ")"
    if hasattr(item, "shape"):
        return f"the shape {tuple(item.shape[rows:])}"
    return "None" if item is None else type(item).__name__


def _leaves(found: Any) -> list[tuple[Any, Any]]:
    if isinstance(found, Mapping):
        return list(found.items())
    return list(enumerate(found)) if isinstance(found, tuple) else [(0, found)]


def _mapped(found: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(found, Mapping):
        return {key: _mapped(value, change) for key, value in found.items()}
    if isinstance(found, tuple):
        return tuple(_mapped(value, change) for value in found)
    if isinstance(found, list):
        return [_mapped(value, change) for value in found]
    return change(found)
