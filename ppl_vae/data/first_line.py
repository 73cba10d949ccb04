"""Is the first line of a csv file one of names, or a row like the others?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

COUNTED = 3  # so many numbers that go up by one are names: years, or columns that were numbered
LONGEST = 60  # characters of a line in a note


def has_header(frame: pd.DataFrame, numbers: np.ndarray) -> tuple[bool, str]:
    """Is the first line one of names? And what is to be said of it, where that may be doubted.

    A line of names has a word, no fraction, and no word that comes again below it. A word above a column of numbers is
    a name. Else a line is a row where one of its cells looks like those below it: a word with digits that is built
    alike (C000 above C001, C002), a number of about their size.

    Args:
        frame: the cells as text, NaN where there is nothing.
        numbers: the same as numbers, NaN where they are none.
    """
    if not len(frame):
        return False, ""
    first, rest = numbers[0], numbers[1:]
    is_word = frame.iloc[0].notna().to_numpy() & np.isnan(first)
    known = first[~np.isnan(first)]
    if not is_word.any() or np.any(known % 1 != 0):
        return False, ""
    below_first = frame.iloc[1:]
    words = [(str(frame.iat[0, i]), below_first[i].dropna().astype(str), rest[:, i]) for i in np.flatnonzero(is_word)]
    if any(below.eq(word).any() for word, below, _ in words):
        return False, ""
    line = _shown(frame)
    if not len(rest) or any(_is_title(word, below, values) for word, below, values in words):
        return True, f"the first line {line} is taken for the names of columns" if len(known) and len(rest) else ""
    alike = any(_is_built_alike(word, below) for word, below, _ in words)
    if not alike and not _count_on(known):
        alike = any(_is_of_their_size(first[i], rest[:, i]) for i in np.flatnonzero(~np.isnan(first)))
    if alike:
        return False, f"the first line {line} is taken for a row, and columns have no names"
    return True, f"the first line {line} is taken for the names of columns"


def _is_title(word: str, below: pd.Series, values: np.ndarray) -> bool:
    """A word above numbers, and nothing else."""
    return any(map(str.isalpha, word)) and len(below) > 0 and int((~np.isnan(values)).sum()) == len(below)


def _is_built_alike(word: str, below: pd.Series) -> bool:
    """Does a word with digits follow the pattern of all that are below it?"""
    pattern = _pattern(word)
    return "0" in pattern and len(below) > 0 and all(_pattern(other) == pattern for other in below.unique())


def _pattern(word: str) -> str:
    """How a word is built of letters and digits.

    >>> _pattern("C017-b")
    'a0-a'
    """
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", "a", word))


def _count_on(numbers: np.ndarray) -> bool:
    return len(numbers) >= COUNTED and bool(np.all(np.diff(numbers) == 1))


def _is_of_their_size(number: float, below: np.ndarray) -> bool:
    """Does a number lie among those below it, or not farther off than they are from 0?"""
    known = below[np.isfinite(below)]
    if not len(known):
        return False
    margin = max(float(np.abs(known).max()), float(np.ptp(known)))
    return bool(known.min() - margin <= number <= known.max() + margin)


def _shown(frame: pd.DataFrame) -> str:
    text = ", ".join(str(cell) for cell in frame.iloc[0].fillna(""))
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")
