"""Step sizes that come to be accepted as often as asked for, of each datum its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_vae.evidence.annealing.hmc import HMC
from ppl_vae.evidence.annealing.path import Point

__all__ = ["StepSizes"]

RATE = 0.2
"""By how much a log step size moves for each unit of acceptance above or below what is asked for."""


@dataclass
class StepSizes:
    """What is learned of step sizes on the way.

    Args:
        log_step: (...), of each datum, now.
        accept: the rate of acceptance that is asked for.

    Attributes:
        logs: all log step sizes that have been learned.
    """

    log_step: Tensor
    accept: float
    logs: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, point: Point, kernel: HMC) -> StepSizes:
        """A first guess, for coordinates of about unit scale."""
        first = torch.full(point.slope.shape[1:], -0.25 * math.log(point.v.shape[-1]), dtype=torch.float64)
        return cls(first.to(point.v.device), kernel.accept)

    @property
    def now(self) -> Tensor:
        """(...)."""
        return self.log_step.exp()

    def learn(self, rate: Tensor) -> None:
        """Take in a rate of acceptance, (...)."""
        self.log_step = self.log_step + RATE * (rate - self.accept)
        self.logs.append(self.log_step)
