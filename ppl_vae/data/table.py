"""A table of cells as a data set: numbers to be modelled, classes and names of rows beside them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_vae.data.columns import Columns, shortened
from ppl_vae.data.csv_file import Cells, as_modelled, numbers_of
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.labels import MOST_CLASSES, Labels, labels_of

if TYPE_CHECKING:
    import pandas as pd

LARGEST = float(np.finfo(np.float32).max)
MOST_LISTED = 30  # columns in one message
DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*|\d{1,2}:\d{2}.*")


class ColumnsError(ValueError):
    """Columns that cannot be modelled as they are: all of them at once, a line each, with what to do about it."""

    is_list = True  # what shows it keeps the lines


@dataclass(frozen=True)
class Fault:
    """What is wrong with one column.

    Args:
        name: of the column.
        what: what it holds, in words.
        role: what it might be instead: "index", "label" or nothing.
        kinds: how many different words it holds, of a label.
    """

    name: str
    what: str
    role: str = ""
    kinds: int = 0

    @property
    def advice(self) -> str:
        """What to do."""
        name = shlex.quote(self.name)
        if self.role == "index":
            return f"--index {name} (the names of the rows), or --drop {name}"
        if self.role == "label":
            return f"--label {name} (classes beside the model), or --drop {name}"
        if self.role == "holes":
            return f"fill them in the file, or --drop {name}"
        return f"--drop {name}"


def dataset_of(
    cells: Cells, columns: Columns, *, name: str, where: str, class_names: Sequence[str] | None = None
) -> Dataset:
    """The rows of a table as numbers, with labels and names of rows.

    Args:
        cells: the table.
        columns: which columns are what.
        name: of the data set.
        where: the file, for messages.
        class_names: the classes by number, where they are known; others have no number (-1). By default all that there
            are, whole numbers in their order, words in that of the alphabet.

    Raises:
        ColumnsError: columns that hold words, dates, holes or infinities; all of them are listed.
        ValueError: a choice of columns that does not fit the table; no rows.
    """
    try:
        roles = columns.roles(cells.names)
    except ValueError as error:
        raise ValueError(f"load_file: {where}: {error}") from None
    if not len(cells.frame):
        raise ValueError(f"load_file: {where} must hold at least one row, got shape {cells.frame.shape}")
    modelled = cells.frame[list(roles.features)].apply(as_modelled)
    if faults := [fault for i in roles.features if (fault := _fault(cells.frame[i], modelled[i], cells.names[i]))]:
        raise ColumnsError(_message(faults, len(roles.features), where))
    numbers = numbers_of(modelled)
    labels = Labels()
    if roles.label is not None:
        labels = labels_of(cells.frame[roles.label], cells.names[roles.label], where, class_names)
    index = None if roles.index is None else _index(cells.frame[roles.index], cells.names[roles.index], where)
    return Dataset(
        name=name,
        train=torch.from_numpy(numbers.astype(np.float32)),
        train_labels=labels.numbers,
        train_label_text=labels.text,
        train_index=index,
        index_name=None if roles.index is None else cells.names[roles.index],
        feature_names=tuple(cells.names[i] for i in roles.features) if cells.has_header else None,
        label_names=labels.classes,
        notes=cells.notes + labels.notes + _hints(cells, roles.features, numbers),
    )


def _fault(written: pd.Series, column: pd.Series, name: str) -> Fault | None:
    """Why a column cannot be modelled; None if it can. In ``written`` "NA" is a word, in ``column`` a hole."""
    numbers = numbers_of(column.to_frame())[:, 0]
    known = column.notna().to_numpy()
    words = known & np.isnan(numbers)
    holes = int((~known).sum())
    if words.any():
        row = int(np.flatnonzero(words)[0])
        example = f"{_cell(column[row])} at row {row}"
        if (words == known).all():
            return _of_words(name, written[written.notna()].to_numpy(), example, _empty(int(written.isna().sum())))
        empty = _empty(holes)
        return Fault(name, f"{int(words.sum())} of {len(column)} cells are no numbers ({example}{empty})")
    if holes:
        row = int(np.flatnonzero(~known)[0])
        share = f"{holes} of {len(column)} cells {'is' if holes == 1 else 'are'} empty (the first at row {row})"
        return Fault(name, share, "holes")
    if (beyond := np.abs(numbers) > LARGEST).any():
        row = int(np.flatnonzero(beyond)[0])
        return Fault(name, f"{'infinity' if np.isinf(numbers[row]) else _cell(column[row])} at row {row}")
    return None


def _empty(holes: int) -> str:
    return f", and {holes} {'cell is' if holes == 1 else 'cells are'} empty" if holes else ""


def _of_words(name: str, values: np.ndarray, example: str, empty: str) -> Fault:
    kinds = np.unique(values.astype(str))
    if DATE.fullmatch(str(values[0])):
        return Fault(name, f"dates or times ({example}{empty})")
    if len(kinds) <= min(MOST_CLASSES, len(values) // 2):  # a word comes twice, in the mean
        what = f"words, {len(kinds)} different ({shortened(list(kinds), 4)}{empty})"
        return Fault(name, what, "label", len(kinds))
    if len(kinds) == len(values) and not empty:
        return Fault(name, f"words, all different ({example})", "index")
    return Fault(name, f"words ({example}{empty})")


def _cell(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 24 else text[:21] + "...")


def _message(faults: list[Fault], num_columns: int, where: str) -> str:
    if len(faults) == 1:
        fault = faults[0]
        return f"load_file: {where} must hold numbers; column {fault.name!r}: {fault.what}: {fault.advice}"
    listed = faults[:MOST_LISTED]
    width = max(len(fault.name) for fault in listed) + 2
    lines = [f"  {fault.name:<{width}}{fault.what}: {fault.advice}" for fault in listed]
    lines += [f"  and {len(faults) - MOST_LISTED} more"] if len(faults) > MOST_LISTED else []
    head = f"load_file: {where} must hold numbers, and {len(faults)} of {num_columns} columns do not:"
    return "\n".join([head, *lines, f"all at once: {_all_at_once(faults)}"])


def _all_at_once(faults: list[Fault]) -> str:
    """Options after which none of these columns is in the way.

    The first index; of labels the one of the fewest words, since text that comes again is no class (a single word,
    which tells no rows apart, comes last); the rest dropped.
    """
    index = next((fault for fault in faults if fault.role == "index"), None)
    labels = [fault for fault in faults if fault.role == "label"]
    label = min(labels, key=lambda fault: (fault.kinds == 1, fault.kinds), default=None)
    chosen = {role: fault.name for role, fault in (("index", index), ("label", label)) if fault is not None}
    options, taken = [f"--{role} {shlex.quote(name)}" for role, name in chosen.items()], set(chosen.values())
    rest = [fault.name for fault in faults if fault.name not in taken]
    plain = [name for name in rest if "," not in name]
    options += [f"--drop {shlex.quote(','.join(plain))}"] if plain else []
    options += [f"--drop {shlex.quote(name)}" for name in rest if "," in name]
    return " ".join(options)


def _index(column: pd.Series, name: str, where: str) -> tuple[str, ...]:
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise ValueError(f"load_file: {where}: every row needs a name, column {name!r} is empty at row {row}")
    return tuple(value if isinstance(value, str) else f"{value:g}" for value in column)  # numbers of an array


def _hints(cells: Cells, features: Sequence[int], numbers: np.ndarray) -> tuple[str, ...]:
    """Columns that are numbers and yet nothing to be modelled, as far as can be seen."""
    return tuple(
        f"column {cells.names[i]!r} counts the rows; --index {shlex.quote(cells.names[i])} keeps it as their names"
        for place, i in enumerate(features)
        if len(numbers) > 2 and len(features) > 1 and np.all(np.diff(numbers[:, place]) == 1)
    )
