"""A column of classes: their numbers, their names, and what is said of those that have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.csv_file import ABSENT, TRUTH, numbers_of

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 100  # different values of a column that is a label
MOST_SHOWN = 5  # classes in one note


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a table.

    Args:
        numbers: (N,) long, -1 for a row without a class, or with one that has no number.
        classes: their names, by number.
        text: the class of each row as the file has it, where some have no number; "" for a row without one.
        notes: what is to be said of them, a sentence each.
    """

    numbers: Tensor | None = None
    classes: tuple[str, ...] | None = None
    text: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def labels_of(column: pd.Series, name: str, where: str, class_names: Sequence[str] | None) -> Labels:
    """The classes of a column, to the letter: "None", "NA" and "True" are words, and only an empty cell is a hole.

    Args:
        column: the cells.
        name: of the column.
        where: the file, for messages.
        class_names: the classes by number, where they are known.

    Raises:
        ValueError: fractions, or more than 100 classes.
    """
    known = column[column.notna()]
    numbers = numbers_of(known.to_frame())[:, 0]
    is_whole = np.isfinite(numbers) & (numbers % 1 == 0)
    if not np.isnan(numbers).any() and not is_whole.all():
        raise ValueError(
            f"load_file: {where}: a label is a class (a word or a whole number), column {name!r} holds fractions; "
            "leave it among the modelled columns, or drop it"
        )
    text = {
        i: str(int(n)) if whole else str(known[i]) for i, n, whole in zip(known.index, numbers, is_whole, strict=True)
    }
    order = _in_order(text.values(), by_number=bool(is_whole.all()))
    if class_names is None and len(order) > MOST_CLASSES:
        raise ValueError(
            f"load_file: {where}: a label of at most {MOST_CLASSES} classes is required, column {name!r} holds "
            f"{len(order)} different values; --index {name} keeps them as the names of the rows"
        )
    classes = tuple(class_names if class_names is not None else order)
    place = {value: i for i, value in enumerate(classes)}
    place = {word: place[digit] for word, digit in _truth(text.values()) if digit in place} | place  # of older runs
    found = torch.tensor([place.get(text.get(i, ""), -1) for i in column.index])
    unknown = Counter(value for value in text.values() if value not in place)
    notes = _on_absent(name, classes, text.values()) + _on_unknown(name, unknown)
    return Labels(found, classes, tuple(text.get(i, "") for i in column.index) if unknown else None, notes)


def _in_order(values: Iterable[str], *, by_number: bool) -> list[str]:
    return sorted(set(values), key=int) if by_number else sorted(set(values))


def _truth(values: Iterable[str]) -> list[tuple[str, str]]:
    return [(value, TRUTH[value.lower()]) for value in set(values) if value.lower() in TRUTH]


def _on_absent(name: str, classes: Sequence[str], values: Iterable[str]) -> tuple[str, ...]:
    words = sorted(set(values) & ABSENT & set(classes))
    if not words:
        return ()
    are = "is a class" if len(words) == 1 else "are classes"
    return (f"in column {name!r} {_listed(words)} {are} like any other; a row without a class has an empty cell",)


def _on_unknown(name: str, unknown: Counter[str]) -> tuple[str, ...]:
    if not unknown:
        return ()
    shown = [
        f"{value!r} ({count} {'row' if count == 1 else 'rows'})" for value, count in unknown.most_common(MOST_SHOWN)
    ]
    more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
    are = "a class that the run has not" if len(unknown) == 1 else "classes that the run has not"
    of_them = "what is measured of classes is measured without these rows"
    return (f"column {name!r} has {are}: {', '.join(shown)}{more}; {of_them}",)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))
