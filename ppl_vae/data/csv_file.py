"""The cells of a csv file, as people's programs write them: its delimiter, its decimal sign, its header."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.data.first_line import has_header

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
"""In this order they are tried: text has commas more often than tabs."""

SNIFFED = 50  # lines that a delimiter must divide alike
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
TRUTH = {"true": "1", "false": "0"}
ABSENT = frozenset(
    {
        *("NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NULL", "null", "None"),
        *("NaN", "nan", "-NaN", "-nan", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"),
    }
)
"""What programs write for a number that is not there; among classes and names of rows they are words."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A table of text.

    Args:
        names: of the columns; "0", "1", ... where the file has none.
        frame: the cells as text, rows from 0; an empty one is NaN.
        has_header: are the names those of the file?
        notes: what was not read to the letter, a sentence each.
    """

    names: tuple[str, ...]
    frame: pd.DataFrame
    has_header: bool
    notes: tuple[str, ...] = ()


def read_cells(path: Path) -> Cells:
    """Read a csv file: comma, semicolon or tab between cells, whichever divides every line alike.

    With semicolons numbers may have decimal commas, as Excel writes them in Europe; a cell such as "1.234" is then no
    number, since it might mean either. Text is UTF-8, or else Windows-1252. What a word such as ``NA`` or ``true``
    stands for depends on what the column is for: see :func:`as_modelled`. Lines without any content, and columns
    without name and content, are left out.

    Raises:
        ValueError: an empty file, or one that is no csv.
    """
    import pandas as pd

    text = _text(path)
    delimiter = _delimiter(text)
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            header=None,
            dtype=str,
            skipinitialspace=True,
            sep=delimiter,
            keep_default_na=False,
            na_values=[""],
        )
    except pd.errors.EmptyDataError:
        raise ValueError(f"load_file: {path} must hold at least one row, got an empty file") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"load_file: {path} must be a readable csv file, got: {error}") from None
    notes = [] if delimiter == "," or frame.shape[1] == 1 else [f"cells are divided by {DELIMITERS[delimiter]}"]
    frame, note = _without_empty_rows(frame)
    notes += note
    if delimiter == ";":
        frame, note = _with_decimal_points(frame)
        notes += note
    frame = frame.apply(lambda column: column.str.strip().mask(column.str.strip() == ""))
    named, doubt = has_header(frame.mask(frame.isin(ABSENT)), numbers_of(frame))
    notes += [doubt] if doubt else []
    first = frame.iloc[0] if len(frame) else []
    names = _distinct([str(cell) if isinstance(cell, str) else "" for cell in first]) if named else None
    frame = (frame.iloc[1:] if named else frame).reset_index(drop=True)
    columns = names or [str(i) for i in range(frame.shape[1])]
    ghosts = [i for i in range(frame.shape[1]) if (names is None or not names[i]) and _is_absent(frame[i]).all()]
    if ghosts and len(frame) and len(ghosts) < frame.shape[1]:
        columns = [name for i, name in enumerate(columns) if i not in ghosts]
        frame = frame.drop(columns=ghosts)
    columns = [name or f"column {i}" for i, name in enumerate(columns)]
    return Cells(tuple(columns), frame.set_axis(range(len(columns)), axis=1), named, tuple(notes))


def numbers_of(cells: pd.DataFrame) -> np.ndarray:
    """The cells as float64; NaN where they are empty or no number."""
    import pandas as pd

    return cells.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def as_modelled(column: pd.Series) -> pd.Series:
    """The cells of a column of numbers: ``true`` and ``false`` are 1 and 0, and ``NA`` and the like are holes."""
    column = column.mask(column.isin(ABSENT))
    return column.map(lambda cell: TRUTH.get(cell.lower(), cell) if isinstance(cell, str) else cell)


def _is_absent(column: pd.Series) -> pd.Series:
    return column.isna() | column.isin(ABSENT)


def _text(path: Path) -> str:
    raw = path.read_bytes()
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            reason = error
    raise ValueError(f"load_file: {path} must be a readable csv file, got: {reason}")


def _delimiter(text: str) -> str:
    """What divides the first lines alike; where nothing does, what divides the first of them most often."""
    found = {}
    for delimiter in DELIMITERS:
        rows = [row for row in islice(csv.reader(io.StringIO(text), delimiter=delimiter), SNIFFED) if any(row)]
        sizes = [len(row) for row in rows] or [1]
        if min(sizes) == max(sizes) > 1:
            return delimiter
        found[delimiter] = sizes[0]
    return max(found, key=lambda delimiter: (found[delimiter], delimiter == ","))


def _without_empty_rows(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    empty = frame.apply(_is_absent).all(axis=1)
    if not empty.any() or frame.shape[1] == 1:  # in a table of one column such a cell is a hole
        return frame, []
    return frame[~empty].reset_index(drop=True), [f"{int(empty.sum())} rows without any content are left out"]


def _with_decimal_points(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    is_comma = frame.apply(lambda column: column.str.fullmatch(DECIMAL_COMMA).eq(True))
    if not is_comma.to_numpy().any():
        return frame, []
    swapped = frame.apply(lambda column: column.str.replace(",", ".", regex=False))
    # Beside decimal commas a point may divide thousands: what has one is left to be refused as a word.
    pointed = frame.apply(lambda column: column.str.fullmatch(r"[+-]?[\d.,]*\.[\d.,]*").eq(True))
    marked = frame.apply(lambda column: column + " (thousands?)")
    return swapped.where(is_comma, marked.where(pointed, frame)), ["numbers have decimal commas"]


def _distinct(names: list[str]) -> list[str]:
    """Names of which each stands once, as pandas has them: a, a.1, a.2."""
    found: list[str] = []
    for name in names:
        count = sum(name == other for other in names[: len(found)])
        found.append(f"{name}.{count}" if count and name else name)
    return found
