"""Numbers on a grid: the grey levels of images, and columns of a table that have but a few values."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["few_values", "grey_levels"]

TOPS = (16, 255)  # of 4 bits and one more, as in scikit-learn's digits, and of 8 bits
LEAST_SIDE = 4  # of a flat square image that is recognized as one
STEPS_PER_DEVIATION = 4.0  # a grid coarser than this is no stand-in for real numbers
LARGEST_ATOM = 0.25  # the share of rows that one value of a column of real numbers may have
FEWEST_ROWS = 8  # of fewer, nothing is said


def grey_levels(rows: Tensor, *, images: bool = False) -> int | None:
    """The top of the grey levels that rows of whole numbers are on: 16 or 255; None for other data.

    Images are rows of two dimensions and more, what the caller knows to be images, and flat rows of the size of a
    square (one colour or three) whose numbers go from 0 to exactly 16 or 255. Zeros and ones are no levels: they are
    data as they are.

    Args:
        rows: (N, *event) numbers of any type.
        images: is a flat row known to be an image?

    >>> import torch
    >>> grey_levels(torch.tensor([[[0, 200], [3, 1]]], dtype=torch.uint8))
    255
    >>> grey_levels(torch.rand(5, 8, 8)) is None
    True
    """
    low, high = (float(end) for end in rows.aminmax())
    if low < 0 or not 1 < high <= TOPS[-1] or not _whole(rows):
        return None
    if images or rows.dim() > 2:
        return next(top for top in TOPS if high <= top)
    return int(high) if low == 0 and high in TOPS and _is_square(rows.shape[1:].numel()) else None


def _whole(rows: Tensor) -> bool:
    return not rows.is_floating_point() or bool((rows == rows.round()).all())


def _is_square(size: int) -> bool:
    sides = [math.isqrt(size // colours) for colours in (1, 3)]
    return size in (sides[0] ** 2, 3 * sides[1] ** 2) and max(sides) >= LEAST_SIDE


def few_values(column: Tensor) -> str | None:
    """Why a column is no sample of real numbers, in words; None where it may be one.

    The density of a column of few values has no upper bound: a flow can put as narrow a peak on each as it likes.

    Args:
        column: (N,) numbers, in any unit.

    >>> import torch
    >>> few_values(torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0] * 2))
    'its values are 0 and 1'
    >>> few_values(torch.linspace(0, 1, 50)) is None
    True
    """
    if len(column) < FEWEST_ROWS:
        return None
    values, counts = column.double().unique(return_counts=True)
    if len(values) == 1:
        return f"it is {values[0]:g} in every row"
    if len(values) == 2:
        return f"its values are {values[0]:g} and {values[1]:g}"
    repeated = 2 * len(values) <= len(column)
    if repeated and float(values.diff().min()) * STEPS_PER_DEVIATION > float(column.double().std(correction=0)):
        whole = "whole numbers" if _whole(values) else "values"
        return f"it has {len(values)} {whole} from {values[0]:g} to {values[-1]:g}"
    share = float(counts.max()) / len(column)
    if repeated and share > LARGEST_ATOM:
        return f"it is {values[counts.argmax()]:g} in {share:.0%} of the rows"
    return None
