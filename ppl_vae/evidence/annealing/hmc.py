"""Hamiltonian Monte Carlo for many particles of many data at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.evidence.annealing.path import Path, Point

__all__ = ["HMC"]

JITTER = 0.2
"""A step is so much longer or shorter, at random, lest a trajectory comes back to where it began."""


@dataclass(frozen=True)
class HMC:
    """A transition that leaves the density of a temperature as it is.

    Args:
        num_leapfrog: steps of a trajectory, each a gradient.
        accept: the rate of acceptance that step sizes are tuned to; trajectories of one step do best at about 0.6, long
            ones at 0.65 to 0.8.

    Raises:
        ValueError: no step, or a rate outside (0, 1).

    Radford Neal: "MCMC using Hamiltonian dynamics", 2011.

    >>> HMC()
    HMC(num_leapfrog=2, accept=0.7)
    """

    num_leapfrog: int = 2
    accept: float = 0.7

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.num_leapfrog < 1 or not 0 < self.accept < 1:
            raise ValueError(f"HMC: num_leapfrog >= 1 and 0 < accept < 1 are required, got {self!r}")

    def __call__(self, path: Path, point: Point, beta: float, step_size: Tensor) -> tuple[Point, Tensor]:
        """Make one transition, on torch's generator.

        Args:
            step_size: (...), of each datum, in v.

        Returns:
            where the particles stand after it, and the rate of acceptance by datum, (...).
        """
        jitter = 1 + JITTER * (2 * torch.rand((), device=point.v.device) - 1)
        step = (step_size * jitter).to(point.v.dtype).unsqueeze(-1)
        momentum = torch.randn_like(point.v)
        began = point.log_density(beta) - _kinetic(momentum)
        there = point
        momentum = momentum + step / 2 * there.gradient(beta)
        for number in range(self.num_leapfrog):
            there = path.at(there.v + step * momentum)
            share = 1.0 if number + 1 < self.num_leapfrog else 0.5
            momentum = momentum + share * step * there.gradient(beta)
        gain = (there.log_density(beta) - _kinetic(momentum) - began).nan_to_num(nan=-torch.inf, posinf=torch.inf)
        accepted = torch.rand(gain.shape, dtype=gain.dtype, device=gain.device).log() < gain
        return point.moved(accepted, there), gain.exp().clamp(max=1.0).mean(0)


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.double().square().sum(-1) / 2
