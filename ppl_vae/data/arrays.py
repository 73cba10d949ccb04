"""Arrays and data frames as arrays of numbers that torch can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["native", "numbers_in"]

_NUMBERS = "fiub"
_HELD = {"g": np.float64, "H": np.int32, "I": np.int64, "L": np.int64, "Q": np.int64}


def numbers_in(value: Any, name: str) -> np.ndarray:
    """The numbers of an array, a list or a frame, as torch can hold them; holes of pandas (NA, None) become NaN.

    Args:
        value: of rows along axis 0.
        name: what errors call it.

    Raises:
        ValueError: it holds words, dates or other objects; of a frame, the columns that do are listed.
    """
    try:
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        array = _of_objects(array, value) if array.dtype == object else array
    except (TypeError, ValueError) as error:
        bad = _columns_without_numbers(value)
        raise ValueError(f"{name}: numbers are required, got {type(value).__name__} with {bad or error}") from None
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(f"{name}: numbers are required, got an array of {array.dtype}")
    return native(array)


def native(array: np.ndarray) -> np.ndarray:
    """A copy in this machine's byte order, with positive strides, in a kind that torch computes with.

    Long doubles become doubles, and unsigned numbers of more than a byte signed ones of more bits (torch holds them,
    but takes no rows of them).

    >>> native(np.array([1.0], ">f4")).dtype == np.float32, native(np.array([1], np.uint16)).dtype == np.int32
    (True, True)
    """
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"data: whole numbers below 2**63 are required, got {array.max()} in an array of uint64")
    own = array.dtype.newbyteorder("=")
    kind = _HELD.get(own.char, own)
    return np.array(array, dtype=kind, order="C" if any(step < 0 for step in array.strides) else "K")


def _of_objects(array: np.ndarray, value: Any = None) -> np.ndarray:
    from pandas import isna

    holes = isna(array)
    if holes.any():
        return np.where(holes, np.nan, array).astype(np.float64)
    return array.astype(_common_kind(value))


def _common_kind(value: Any) -> np.dtype:
    """The kind of numbers in pandas' nullable columns; double for objects of other kinds."""
    kinds = getattr(value, "dtypes", ())  # of a series it is one
    own = [getattr(kind, "numpy_dtype", None) for kind in (kinds if hasattr(kinds, "__iter__") else (kinds,))]
    if own and all(kind is not None and kind.kind in _NUMBERS for kind in own):
        return np.result_type(*own)
    return np.dtype(np.float64)


def _columns_without_numbers(value: Any) -> str:
    """The columns of a frame that hold something else than numbers, with their kinds and what to do; or nothing."""
    if not hasattr(value, "iloc") or not hasattr(value, "columns"):
        return ""
    bad = [
        f"{name!r} ({kind})"
        for i, (name, kind) in enumerate(value.dtypes.items())
        if not _holds_numbers(value.iloc[:, i].to_numpy())
    ]
    return f"the columns {', '.join(bad)}; drop them (data.drop(columns=[...])) or encode them" if bad else ""


def _holds_numbers(column: np.ndarray) -> bool:
    if column.dtype != object:
        return column.dtype.kind in _NUMBERS
    try:
        _of_objects(column)
    except (TypeError, ValueError):
        return False
    return True
