"""Data in memory: tensors that share axis 0, the axis of the datum.

:class:`Rows` is what a person's data become (arrays, frames, tuples, dictionaries); a :class:`Batch` is what one call
of the model and the guide sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.data.arrays import numbers_in
from ppl_vae.data.forms import require_rows

__all__ = ["Batch", "Column", "Rows"]

HOLES = '; holes are told by a mask, {"x": X with any number there, "mask": seen}, to a model that takes one'


class Column(NamedTuple):
    """One tensor of the data: its place or name, its kind (``torch.float32``, ...), and the shape of a row of it."""

    name: int | str
    dtype: torch.dtype
    shape: torch.Size


@dataclass(frozen=True)
class Batch:
    """What one call of a pair sees.

    ``args`` and ``kwargs`` go to the model and to the guide; ``index`` (B,) holds the row numbers and goes to those
    whose signature names it; ``num_data`` is N, the number of rows that the batch stands for (None: the rows it has).
    ``numbers`` (B,) are the row numbers for those who tell of an error, where ``index`` is not given; -1: not known.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    index: Tensor | None = None
    num_data: int | None = None
    numbers: Tensor | None = field(default=None, compare=False, repr=False)

    def row(self, row: int) -> str:
        """What one of these rows is called: by its number in the whole, as far as it is known."""
        numbers = self.index if self.numbers is None else self.numbers
        number = row if numbers is None else int(numbers[row])
        return f"row {row} of a batch (a DataLoader does not tell its number)" if number < 0 else f"row {number}"

    @property
    def size(self) -> int | None:
        """B, the length of axis 0 of the first tensor, or None for a pair without data."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.dim():
                return len(value)
        return None


@dataclass(frozen=True)
class Rows:
    """Tensors with a common axis 0: positional ones (``args``), and named ones (``kwargs``).

    ``index`` and ``numbers`` are as in a :class:`Batch`.

    >>> rows = Rows.of((torch.zeros(3, 2), [0, 1, 1]))
    >>> len(rows), [tuple(t.shape) for t in rows.args]
    (3, [(3, 2), (3,)])
    """

    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None
    numbers: Tensor | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls, data: Any, *, name: str = "data", dtype: torch.dtype | None = None, numbers: Tensor | None = None
    ) -> Rows:
        """Make rows of a tensor, array, data frame, a tuple or dictionary of these, a ``TensorDataset``, or None.

        Fractions that are no tensor yet take ``dtype``, or torch's default. ``numbers`` are those that the rows have
        in a larger whole.

        Raises:
            ValueError: for no rows, different lengths, numbers that are NaN (with row and column), or objects.
        """
        if isinstance(data, Rows):
            return data
        if data is None:
            return cls()
        if isinstance(data, torch.utils.data.TensorDataset):
            data = data.tensors

        def part(value: Any, place: str, *, allow_nan: bool = False) -> Tensor:
            return _tensor(value, f"{name}{place}", dtype, numbers, allow_nan=allow_nan)

        if isinstance(data, Mapping):
            masked = "mask" in data  # what is masked out may be NaN; the model fills it
            rows = cls((), {k: part(v, f"[{k!r}]", allow_nan=masked) for k, v in data.items()}, numbers)
            rows._check_masked(name)
        elif isinstance(data, tuple):
            rows = cls(tuple(part(value, f"[{i}]") for i, value in enumerate(data)), {}, numbers)
        else:
            rows = cls((part(data, ""),), {}, numbers)
        rows._check(name)
        return rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """What a row consists of: name, kind and shape of each tensor."""
        named: list[tuple[Any, Tensor]] = [*enumerate(self.args), *self.kwargs.items()]
        return tuple(Column(name, t.dtype, t.shape[1:]) for name, t in named)

    def _tensors(self) -> list[Tensor]:
        return [*self.args, *self.kwargs.values()]

    def _check(self, name: str) -> None:
        lengths = [len(t) for t in self._tensors()]
        if len(set(lengths)) > 1:
            raise ValueError(f"{name}: all parts must have the same number of rows (axis 0), got {lengths}")
        if not lengths or not lengths[0]:
            raise ValueError(f"{name}: at least one row is required, got none")

    def _check_masked(self, name: str) -> None:
        mask = self.kwargs.get("mask")
        for key, value in self.kwargs.items():
            if mask is not None and value.shape == mask.shape and value.is_floating_point():
                _refuse_nan(value.masked_fill(~mask.bool(), 0.0), f"{name}[{key!r}]", None, self.index)
            elif mask is not None:
                _refuse_nan(value, f"{name}[{key!r}]", None, self.index)

    def __len__(self) -> int:
        tensors = self._tensors()
        return len(tensors[0]) if tensors else 0

    def take(self, index: Tensor | slice) -> Rows:
        """The rows at ``index`` (a slice or a long tensor); they remember their numbers in the whole."""
        if isinstance(index, Tensor):
            numbers = index if self.index is None else self.index.to(index.device)[index]
            args = tuple(t.index_select(0, index) for t in self.args)
            kwargs = {k: t.index_select(0, index) for k, t in self.kwargs.items()}
        else:
            numbers = torch.arange(*index.indices(len(self))) if self.index is None else self.index[index]
            args, kwargs = tuple(t[index] for t in self.args), {k: t[index] for k, t in self.kwargs.items()}
        own = None if self.numbers is None else self.numbers[index.cpu() if isinstance(index, Tensor) else index]
        return Rows(args, kwargs, numbers, own)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Rows:
        """Move to a device; ``dtype`` converts floating tensors only."""

        def move(t: Tensor) -> Tensor:
            return t.to(device=device, dtype=dtype if t.is_floating_point() else None)

        index = None if self.index is None else self.index.to(device=device)
        return Rows(
            tuple(move(t) for t in self.args), {k: move(t) for k, t in self.kwargs.items()}, index, self.numbers
        )

    def batch(self, *, num_data: int | None = None) -> Batch:
        """These rows as one :class:`Batch` that stands for ``num_data`` rows (by default, for themselves)."""
        total = num_data if num_data is not None else (len(self) or None)
        return Batch(self.args, self.kwargs, self.index, total, self.numbers)


def _tensor(
    value: Any, name: str, dtype: torch.dtype | None, numbers: Tensor | None = None, *, allow_nan: bool = False
) -> Tensor:
    """One part of the data as a tensor, checked for NaN."""
    columns: Sequence[Any] | None = getattr(value, "columns", None)
    require_rows(value, name)
    if not isinstance(value, Tensor):
        value = torch.from_numpy(
            numbers_in(value, name)
        )  # of a copy: the fit must not see changes of the caller's array
        value = value.to(dtype or torch.get_default_dtype()) if value.is_floating_point() else value
    if not value.dim():
        raise ValueError(f"{name}: rows along axis 0 are required, got a single number")
    if not allow_nan:
        _refuse_nan(value, name, columns, numbers)
    return value


def _refuse_nan(value: Tensor, name: str, columns: Sequence[Any] | None, numbers: Tensor | None) -> None:
    if not value.is_floating_point() or not bool(value.isnan().any()):
        return
    place = [int(i) for i in value.isnan().nonzero()[0]]
    row = place[0] if numbers is None else int(numbers[place[0]])
    column = "" if len(place) < 2 else f", column {columns[place[1]] if columns is not None else place[1:]}"
    column = column.replace("[", "").replace("]", "")
    raise ValueError(f"{name}: no NaN is allowed, found one at row {row}{column}{HOLES}")
