"""The rank of the truth among draws, counted a block of draws at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_vae._random import generator

__all__ = ["Count"]


@dataclass
class Count:
    """How many of the draws of each datum lie below the truth, and how many are equal to it.

    Args:
        label: of what is ranked, for errors.
        truth: (1, n).
        tolerance: numbers that differ by less than this part of their size are equal. Two runs give the log density of
            one code with other roundings, and an order by these would be an order by nothing, the same each time.
    """

    label: str
    truth: Tensor
    tolerance: float = 0.0
    below: Tensor = field(init=False)
    equal: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.below, self.equal = (torch.zeros(self.truth.shape[1], dtype=torch.long) for _ in range(2))

    def add(self, draws: Tensor) -> None:
        """Count further draws, (S, n)."""
        if bool(draws.isnan().any() | self.truth.isnan().any()):
            raise ValueError(f"calibration: numbers are required to be ranked, and {self.label!r} is NaN somewhere")
        same = draws == self.truth
        if self.tolerance:
            apart = (draws - self.truth).abs()
            same |= self.truth.isfinite() & (apart <= self.tolerance * self.truth.abs().clamp_min(1.0))
        self.equal += same.sum(0)
        self.below += ((draws < self.truth) & ~same).sum(0)

    def ranks(self, seed: int) -> Tensor:
        """From 0 to the number of draws, (n,); a place among equals is drawn, so that exact draws give uniform ranks.

        Args:
            seed: of that.
        """
        drawn = torch.rand(self.equal.shape, dtype=torch.float64, generator=generator(seed, self.label))
        return self.below + (drawn * (self.equal + 1)).long()
