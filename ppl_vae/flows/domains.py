"""Where data or latents of a layer live, beyond what torch has constraints for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


class OpenUnitInterval(Constraint):
    """The numbers between 0 and 1, without the ends."""

    def check(self, value: Tensor) -> Tensor:
        """True where a number lies in it."""
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "the open interval (0, 1)"


def held_in_unit_interval(value: Tensor) -> Tensor:
    """Numbers of [0, 1], with those at its ends one rounding inside: the least normal number, and the last below 1."""
    info = torch.finfo(value.dtype)
    return value.clamp(info.tiny, 1 - info.eps / 2)


def held_above_zero(value: Tensor) -> Tensor:
    """Numbers from 0 on, with the least normal one for what is smaller."""
    return value.clamp(min=torch.finfo(value.dtype).tiny)


class Ascending(Constraint):
    """Vectors whose entries do not fall."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """True where a vector is in order."""
        return (value[..., 1:] >= value[..., :-1]).all(-1)

    def __repr__(self) -> str:
        return "vectors in ascending order"


class Multiples(Constraint):
    """The whole multiples of a step, up to rounding."""

    is_discrete = True

    def __init__(self, step: float) -> None:
        self.step = step

    def check(self, value: Tensor) -> Tensor:
        """True where a number is one."""
        position = value / self.step
        return (position - torch.round(position)).abs() <= 1e-3  # float32 knows k / 255 to 1e-5 of a step

    def __repr__(self) -> str:
        return f"whole multiples of {self.step:g}"


class Box(Constraint):
    """Vectors between two corners; a side without an end is infinite.

    The ends belong to it: a number a rounding away from one becomes one.
    """

    event_dim = 1

    def __init__(self, low: tuple[float, ...], high: tuple[float, ...]) -> None:
        self.low, self.high = low, high

    def check(self, value: Tensor) -> Tensor:
        """True where a vector lies in it."""
        low, high = (torch.tensor(ends, dtype=value.dtype, device=value.device) for ends in (self.low, self.high))
        return ((value >= low) & (value <= high)).all(-1)

    def inside(self, other: Box) -> bool:
        """Is no side of it beyond that of another?"""
        ends = (zip(self.low, other.low, strict=True), zip(other.high, self.high, strict=True))
        return len(self.low) == len(other.low) and all(a >= b for pairs in ends for a, b in pairs)

    def __repr__(self) -> str:
        return " x ".join(f"[{low:g}, {high:g}]" for low, high in zip(self.low, self.high, strict=True))


def of_event(constraint: Constraint, event_dims: int) -> Constraint:
    """The constraint on events of so many dimensions whose entries, or vectors, keep this one."""
    extra = event_dims - constraint.event_dim
    return constraints.independent(constraint, extra) if extra > 0 else constraint


def within(inner: Constraint, outer: Constraint) -> bool:
    """Is everything that keeps the first constraint known to keep the second, but for a null set?

    >>> within(constraints.positive, constraints.nonnegative), within(constraints.real, constraints.nonnegative)
    (True, False)
    """
    inner, outer = _of_entries(inner), _of_entries(outer)
    if outer is constraints.real or inner is outer or type(inner) is type(outer) is Ascending:
        return True
    if isinstance(inner, Box) and isinstance(outer, Box):
        return inner.inside(outer)
    half_lines = (constraints.positive, constraints.nonnegative)
    if isinstance(inner, Box) and outer in half_lines:
        return min(inner.low) >= 0
    if isinstance(inner, OpenUnitInterval):
        return isinstance(outer, OpenUnitInterval) or outer in half_lines
    return outer in half_lines and _above_zero(inner)


def _of_entries(constraint: Constraint) -> Constraint:
    """What the entries of an event keep, with the interval [0, 1] as the open one."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    ends = [getattr(constraint, name, None) for name in ("lower_bound", "upper_bound")]
    if type(constraint) is type(constraints.unit_interval) and _all(ends[0], 0) and _all(ends[1], 1):
        return OpenUnitInterval()
    return constraint


def _above_zero(constraint: Constraint) -> bool:
    """Are they real numbers with a lower end, and that is 0 or more?"""
    low = getattr(constraint, "lower_bound", None)
    return low is not None and not constraint.is_discrete and bool((torch.as_tensor(low) >= 0).all())


def _all(ends: Any, value: float) -> bool:
    return bool((torch.as_tensor(ends) == value).all())
