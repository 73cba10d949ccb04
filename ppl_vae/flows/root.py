"""The zero of an increasing function, for many parameters at once, with derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# f(t) and f'(t), both of the shape of t.
WithSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


def increasing_root(f: WithSlope, lower: Tensor, upper: Tensor, *, iterations: int = 40) -> Tensor:
    """The t with f(t) = 0, for an increasing f with f(lower) <= 0 <= f(upper).

    Newton's method, held in a bracket: where a step leaves the bracket, or is not at least halved from one step to the
    next, the bracket is halved instead. The number of iterations is fixed, so that the search can be traced; Newton is
    there after about six, and the rest is for slopes near 0.

    Args:
        f: from t to (f(t), f'(t)), number by number.
        lower, upper: (...) the bracket.
        iterations: at least 1.

    Returns:
        t (...). Its first and second derivatives with respect to what f depends on are those of the implicit function.
    """
    with torch.no_grad():
        t = _search(f, lower, upper, iterations)
    # Two more Newton steps, which autograd sees: at the zero, one step gives the implicit first derivative,
    # dt/dθ = -(df/dθ) / f', and two give the second.
    for _ in range(2):
        value, slope = f(t)
        t = t - value / slope
    return t


def _search(f: WithSlope, lower: Tensor, upper: Tensor, iterations: int) -> Tensor:
    t = (lower + upper) / 2
    last = upper - lower
    for _ in range(iterations):
        value, slope = f(t)
        below = value < 0
        lower, upper = torch.where(below, t, lower), torch.where(below, upper, t)
        newton = t - value / slope
        middle = (lower + upper) / 2
        # A NaN (a slope of 0 at the zero) is in no bracket, so the comparison is made to be False for it.
        good = (newton >= lower) & (newton <= upper) & ((newton - t).abs() <= last / 2)
        moved = torch.where(good, newton, middle)
        last, t = (moved - t).abs(), moved
    return t
