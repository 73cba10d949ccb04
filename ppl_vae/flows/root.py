"""The zero of an increasing function, for many parameters at once, with derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# f(t) and f'(t), both of the shape of t.
WithSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


def increasing_root(f: WithSlope, lower: Tensor, upper: Tensor, *, start: Tensor, iterations: int = 40) -> Tensor:
    """The t with f(t) = 0, for an increasing f with f(lower) <= 0 <= f(upper).

    Newton's method, held in a bracket that every step makes smaller: where it leaves the bracket, the bracket is halved
    instead. The number of iterations is fixed, so that the search can be traced.

    Args:
        f: from t to (f(t), f'(t)), number by number.
        lower, upper: (...) the bracket.
        start: (...) where the search starts. From a point between which and the zero f is convex and positive, or
            concave and negative, Newton's method comes nearer with every step, and about ten are enough.
        iterations: at least 1.

    Returns:
        t (...). Its first and second derivatives with respect to what f depends on are those of the implicit function.
    """
    with torch.no_grad():
        t = _search(f, lower, upper, start, iterations)
    # Two more Newton steps, which autograd sees: at the zero, one step gives the implicit first derivative,
    # dt/dθ = -(df/dθ) / f', and two give the second.
    for _ in range(2):
        value, slope = f(t)
        t = t - value / slope
    return t


def _search(f: WithSlope, lower: Tensor, upper: Tensor, t: Tensor, iterations: int) -> Tensor:
    for _ in range(iterations):
        value, slope = f(t)
        below = value < 0
        lower, upper = torch.where(below, t, lower), torch.where(below, upper, t)
        newton = t - value / slope
        # A step that rounding has made nothing stays on the end of the bracket where t is, so ends count as inside.
        inside = (newton >= lower) & (newton <= upper)
        t = torch.where(inside, newton, (lower + upper) / 2)
    return t
