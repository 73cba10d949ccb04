"""Where data or latents of a layer live, beyond what torch has constraints for."""

from __future__ import annotations

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


def within(inner: Constraint, outer: Constraint) -> bool:
    """Is everything that keeps the first constraint known to keep the second, but for a null set?

    >>> within(constraints.positive, constraints.nonnegative), within(constraints.real, constraints.nonnegative)
    (True, False)
    """
    if outer is constraints.real or inner is outer or type(inner) is type(outer) is Ascending:
        return True
    half_lines = (constraints.positive, constraints.nonnegative)
    if isinstance(inner, OpenUnitInterval):
        return isinstance(outer, OpenUnitInterval) or outer in half_lines
    return inner in half_lines and outer in half_lines
