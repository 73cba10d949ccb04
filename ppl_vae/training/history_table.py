"""Rows of numbers by column: a long history takes eight bytes a number, in memory and in a checkpoint."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Table"]


class _Numbers:
    """One column: numbers in double precision, which rows have one, and whether all were whole."""

    def __init__(self, before: int) -> None:
        self.values, self.present = array("d", [0.0] * before), bytearray(before)
        self.is_whole = True

    def append(self, value: Any) -> None:
        self.values.append(0.0 if value is None else float(value))
        self.present.append(value is not None)
        self.is_whole = self.is_whole and (value is None or isinstance(value, int))

    def __getitem__(self, i: int) -> float | int:
        return int(self.values[i]) if self.is_whole else self.values[i]


class Table:
    """Rows of numbers, each a dictionary, kept by column. What is no number (a word of a callback's) is kept aside.

    >>> table = Table()
    >>> table.append({"epoch": 0, "elbo": -1.5})
    >>> table.append({"epoch": 1, "elbo": -1.25, "note": "a word"})
    >>> table[1], table.names
    ({'epoch': 1, 'elbo': -1.25, 'note': 'a word'}, ['epoch', 'elbo', 'note'])
    """

    def __init__(self) -> None:
        self._columns: dict[str, _Numbers] = {}
        self._words: dict[str, dict[int, Any]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; columns that it lacks have no value there."""
        for name, value in row.items():
            if not isinstance(value, int | float):
                self._words.setdefault(name, {})[self._size] = value
            elif name not in self._columns:
                self._columns[name] = _Numbers(self._size)
        for name, column in self._columns.items():
            value = row.get(name)
            column.append(value if isinstance(value, int | float) else None)
        self._size += 1

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = range(self._size)[i]
        row = {name: column[i] for name, column in self._columns.items() if column.present[i]}
        return row | {name: values[i] for name, values in self._words.items() if i in values}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(self._size))

    def cut(self, size: int) -> None:
        """Leave the first ``size`` rows."""
        for column in self._columns.values():
            del column.values[size:], column.present[size:]
        self._columns = {name: column for name, column in self._columns.items() if any(column.present)}
        self._words = {name: {i: v for i, v in words.items() if i < size} for name, words in self._words.items()}
        self._size = min(size, self._size)

    @property
    def names(self) -> list[str]:
        """The columns, in order of first appearance; those of words last."""
        return list(dict.fromkeys((*self._columns, *self._words)))

    def columns(self) -> dict[str, Any]:
        """Every column as an array, for a frame: whole numbers where all are there and whole, else NaN for a hole."""
        import numpy as np

        found: dict[str, Any] = {}
        for name, column in self._columns.items():
            values, present = np.array(column.values), np.frombuffer(bytes(column.present), bool)
            if present.all():
                found[name] = values.astype(np.int64) if column.is_whole else values
            else:
                found[name] = np.where(present, values, np.nan)
        for name, words in self._words.items():
            numbers = found.get(name, np.full(self._size, np.nan)).astype(object)
            numbers[list(words)] = list(words.values())
            found[name] = numbers
        return found

    def state(self) -> dict[str, Any]:
        """A plain tree: one tensor (rows, columns) of float64, and one of what is there if something is not."""
        columns = list(self._columns.values())
        full = all(all(column.present) for column in columns)
        return {
            "names": list(self._columns),
            "whole": [column.is_whole for column in columns],
            "values": _stacked([torch.tensor(column.values, dtype=torch.float64) for column in columns], self._size),
            "present": None
            if full
            else _stacked([torch.tensor(list(column.present), dtype=torch.bool) for column in columns], self._size),
            "words": [[name, i, value] for name, words in self._words.items() for i, value in words.items()],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Table:
        """The table whose :meth:`state` this is."""
        table = cls()
        table._size = len(state["values"])
        for i, name in enumerate(state["names"]):
            column = table._columns[name] = _Numbers(0)
            column.values = array("d", state["values"][:, i].tolist())
            present = [True] * table._size if state["present"] is None else state["present"][:, i].tolist()
            column.present, column.is_whole = bytearray(present), bool(state["whole"][i])
        for name, i, value in state["words"]:
            table._words.setdefault(name, {})[i] = value
        return table

    def up_to(self, epoch: int) -> Table:
        """The rows of the epochs before ``epoch``."""
        table = Table()
        for row in self:
            if row["epoch"] < epoch:
                table.append(row)
        return table


def _stacked(columns: list[Tensor], size: int) -> Tensor:
    return torch.stack(columns, 1) if columns else torch.zeros(size, 0, dtype=torch.float64)
