"""Is a compiled result the eager one? Losses and gradients within a stated error, the random stream exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Error allowed, relative to the largest gradient entry over all parameters (and for values, to their size)."""


FALLEN = 1000.0
"""How far gradients may have fallen for their former size to count in full."""


def size(tensors: Sequence[Tensor | None]) -> float:
    """The largest finite entry, by its absolute value."""
    floats = [t.detach() for t in tensors if t is not None and t.is_floating_point() and t.numel()]
    return max((float(torch.where(t.isfinite(), t.abs(), 0.0).max()) for t in floats), default=0.0)


def difference(ours: Sequence[Tensor | None], reference: Sequence[Tensor | None], *, former: float = 0.0) -> float:
    """The largest error of any entry over the largest entry of the reference; infinity where finiteness differs.

    Args:
        former: the size of these tensors in earlier steps. The gradient of all data falls towards 0 as a fit ends, and
            its rounding does not: it is that of terms as large as before, which cancel. So the error is taken relative
            to the former size, though to no more than 1000 times the present one.
    """
    largest, worst = min(former, FALLEN * size(reference)), 0.0
    for mine, theirs in zip(ours, reference, strict=True):
        if mine is None or theirs is None:
            if mine is not theirs:
                return float("inf")
            continue
        if not theirs.numel():
            continue
        if not theirs.is_floating_point():
            if not torch.equal(mine, theirs):
                return float("inf")
            continue
        mine, theirs = mine.detach(), theirs.detach()
        finite = torch.isfinite(theirs)
        special = (mine == theirs) | (mine.isnan() & theirs.isnan())  # where one is not finite, both are the same
        if not bool((special | (finite & torch.isfinite(mine))).all()):
            return float("inf")
        if bool(finite.any()):
            largest = max(largest, float(theirs[finite].abs().max()))
            worst = max(worst, float((mine[finite] - theirs[finite]).abs().max()))
    return worst / largest if largest > 0 else worst


def tolerance(tensors: Sequence[Tensor | None]) -> float:
    """The error allowed for tensors of this precision: the coarsest of them decides."""
    return max((TOLERANCE.get(t.dtype, 1e-2) for t in tensors if t is not None and t.is_floating_point()), default=0.0)
