"""The names that data bring along: of rows, and of columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Header", "header_of"]


@dataclass(frozen=True)
class Header:
    """What rows and columns are called.

    Args:
        index: a name a row; None where there are none.
        columns: the names of the columns of an argument, by its place or name, where it has any.
    """

    index: list[Any] | None = None
    columns: Mapping[int | str, list[str]] = field(default_factory=dict)


def header_of(data: Any) -> Header:
    """The index and the columns of data frames, alone or in a tuple or dictionary; empty for all else.

    >>> import pandas as pd
    >>> header_of(pd.DataFrame({"a": [1.0, 2.0]}, index=["first", "second"]))
    Header(index=['first', 'second'], columns={0: ['a']})
    """
    parts: dict[Any, Any] = dict(data) if isinstance(data, Mapping) else {}
    if not parts:
        parts = dict(enumerate(data if type(data) is tuple else (data,)))
    framed = {name: part for name, part in parts.items() if hasattr(part, "iloc") and hasattr(part, "index")}
    index = next((_labels(part.index) for part in framed.values()), None)
    return Header(
        index, {name: _labels(part.columns, str) for name, part in framed.items() if hasattr(part, "columns")}
    )


def _labels(index: Any, kind: Any = None) -> list[Any]:
    """Plain labels: whole numbers and words as they are, all else (dates, several levels) as words."""
    plain = kind is None and getattr(index, "dtype", None) is not None and index.dtype.kind in "iu"
    return [int(label) if plain else str(label) for label in index]
