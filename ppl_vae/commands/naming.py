"""The columns of a table by name, of which none replaces another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column and what it is.

    Args:
        name: what it is to be called.
        values: one a row.
        role: what it is, in a word, which goes with its name where that is taken.
        precedence: of two columns of one name, the one of the lower number keeps it.
    """

    name: str
    values: Any
    role: str
    precedence: int


def named_apart(columns: Sequence[Column]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The columns by name, in their order, and a note on each that is called otherwise than it was to be.

    >>> named_apart([Column("c", [0, 1], "label", 2), Column("c", [5, 5], "latent", 1)])
    ({'c (label)': [0, 1], 'c': [5, 5]}, ("there are two columns 'c': the label is called 'c (label)'",))
    """
    names: dict[int, str] = {}
    notes = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].precedence):
        names[i] = _distinct(columns[i].name, columns[i].role, names.values())
        if names[i] != columns[i].name:
            notes.append(f"there are two columns {columns[i].name!r}: the {columns[i].role} is called {names[i]!r}")
    return {names[i]: column.values for i, column in enumerate(columns)}, tuple(notes)


def _distinct(name: str, role: str, taken: Iterable[str]) -> str:
    known = set(taken)
    while name in known:
        name = f"{name} ({role})"
    return name
