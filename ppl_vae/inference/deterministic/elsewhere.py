"""Where else may there be mass? Places that the modes found so far do not explain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.inference.deterministic.curvature import Density

__all__ = ["log_mixture", "unexplained"]

_EXCESS = 3.0
"""Nats by which the density at a place must exceed what the modes make of it."""
_MOST, _NEAREST, _FARTHEST = 2048, 2.0, 100.0
"""So many places around the modes, at 2 to 100 times the distance of a typical draw; fewer where data are many."""
_MOST_MODES = 4
"""Around more modes than these nobody looks."""
_BY_HEIGHT, _BY_CHANCE = 4, 8
_FEW = 64


def unexplained(
    density: Density, modes: Tensor, factors: Tensor, log_masses: Tensor, places: Tensor, *, seed: int
) -> Tensor:
    """Starts (K, D) for another climb: places where the density is higher than the modes found say; none if K is 0.

    The normals of the modes, weighed by their masses, are a picture of the density. It is held against the density at
    draws of the prior, and at distances of 2 to 100 standard deviations around each mode. Half of what stands out is
    taken by height; the other half by chance, lest a heavy tail of a known mode hides a mode far away.

    Args:
        density: log p(x, u).
        modes, factors, log_masses: (K, D), (K, D, D), (K,), the one with the most mass first.
        places: (M, D) where to look beside.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    near = min(len(modes), _MOST_MODES)
    most = min(_MOST, 8 * density.block)
    around = [_around(modes[i], factors[i], most // near, generator) for i in range(near)]
    looked = torch.cat([-modes, places[:most], *around])
    height = _heights(density, looked)
    excess = height - log_mixture(looked, modes, factors, log_masses)
    standing = height.isfinite() & (excess > _EXCESS)
    looked, height = looked[standing], height[standing]
    order = height.argsort(descending=True)
    others = order[_BY_HEIGHT:]
    chance = torch.randperm(len(others), generator=generator)[:_BY_CHANCE].to(order.device)
    return looked[torch.cat([order[:_BY_HEIGHT], others[chance]])]


def log_mixture(u: Tensor, locs: Tensor, factors: Tensor, log_masses: Tensor | Sequence[float]) -> Tensor:
    """The log density (S,) at u (S, D) of normals N(loc, factor factor'), weighed by masses that need not add to 1."""
    parts = []
    for loc, factor, log_mass in zip(locs, factors, log_masses, strict=True):
        white = torch.linalg.solve_triangular(factor, (u - loc).T, upper=False)
        log_det = factor.diagonal().abs().log().sum()
        parts.append(log_mass - 0.5 * white.square().sum(0) - log_det - 0.5 * len(loc) * math.log(2 * math.pi))
    return torch.stack(parts).logsumexp(0)


def _heights(density: Density, u: Tensor) -> Tensor:
    """Log densities (S,), minus infinity at whole groups of places of which one breaks the run.

    Far away a covariance may have no factor, and to find out which of thousands costs more than any of them is worth.
    """
    parts, size = [], density.block
    rest = u
    while len(rest):
        try:
            with torch.no_grad():
                part = density.at(rest[:size])
        except torch.linalg.LinAlgError:
            if size > _FEW:
                size = _FEW
                continue
            part = rest.new_full((len(rest[:size]),), -math.inf)
        parts.append(part)
        rest = rest[size:]
    height = torch.cat(parts)
    return torch.where(height.isnan() | height.isposinf(), -math.inf, height)


def _around(loc: Tensor, factor: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places in all directions, at distances even in their logarithm, the nearest first."""
    ways = torch.randn(count, len(loc), dtype=torch.float64, generator=generator)
    low, high = math.log(_NEAREST), math.log(_FARTHEST)
    size = (low + (high - low) * torch.rand(count, 1, dtype=torch.float64, generator=generator)).exp()
    return loc + (size.sort(0).values * ways).to(loc) @ factor.T
