"""Several starts climb to the modes of a log density at once; each mode with the normal that its curvature makes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.inference.deterministic.curvature import Curvature, Density, curvature, safeguarded

__all__ = ["Climb", "climb"]

_STEPS = 2.0 ** torch.arange(1, -15, -1, dtype=torch.float64)
_DECREMENT = 1e-6
"""A point is a mode where a Newton step would gain no more than this, in nats."""


@dataclass(frozen=True)
class Climb:
    """Where K starts ended.

    Attributes:
        u: (K, D), the highest point of each.
        factor: (K, D, D), the lower factor of the covariance that the curvature there gives.
        log_p: (K,) nats.
        arrived: (K,) bool, is it a mode, with a covariance?
        path: what was passed on the way: points (M, D), and the factors there (M, D, D).
    """

    u: Tensor
    factor: Tensor
    log_p: Tensor
    arrived: Tensor
    path: tuple[Tensor, Tensor]

    @property
    def log_mass(self) -> Tensor:
        """(K,) log of the integral around each by Laplace's method, nats."""
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.log_p + log_det + 0.5 * self.u.shape[-1] * math.log(2 * math.pi)

    def joined(self, other: Climb) -> Climb:
        """The starts of both."""
        mine, others = ((c.u, c.factor, c.log_p, c.arrived, *c.path) for c in (self, other))
        u, factor, log_p, arrived, points, spreads = (torch.cat(pair) for pair in zip(mine, others, strict=True))
        return Climb(u, factor, log_p, arrived, (points, spreads))


def climb(density: Density, starts: Tensor, *, max_iter: int = 60) -> Climb:
    """Newton's method from each start (K, D), with curvature taken by its magnitude and the best of many step lengths.

    The direction is |H|^-1 g, which leaves saddle points and does not care about the units of the columns; sixteen step
    lengths are tried in one run.

    Args:
        density: the log density.
        starts: (K, D).
        max_iter: a start that has not arrived by then is left where it is.

    Yann Dauphin and others, "Identifying and attacking the saddle point problem in high-dimensional non-convex
    optimization", 2014.
    """
    u = starts.clone()
    factor = torch.eye(u.shape[1], dtype=u.dtype, device=u.device).repeat(len(u), 1, 1)
    height = torch.full((len(u),), -math.inf, dtype=u.dtype, device=u.device)
    arrived = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    active, passed = torch.arange(len(u), device=u.device), []
    for _ in range(max_iter):
        at = curvature(density, u[active])
        factors, definite = safeguarded(-at.hessian)
        factor[active], height[active] = factors, at.value
        passed.append((u[active], factors))
        direction, decrement = _newton(at, factors)
        arrived[active] = definite & (decrement <= _DECREMENT) & at.value.isfinite()
        moved, gained = _search(density, u[active], direction, at.value)
        # One more step from a mode costs nothing that was not paid: it is the best that rounding allows.
        u[active] = torch.where(gained.unsqueeze(-1), moved, u[active])
        active = active[gained & ~arrived[active]]
        if not len(active):
            break
    points, spreads = (torch.cat(column) for column in zip(*passed, strict=True))
    return Climb(u, factor, height, arrived, (points, spreads))


def _newton(at: Curvature, factor: Tensor) -> tuple[Tensor, Tensor]:
    """The step to the top of the quadratic that touches the density, and half of its length in standard deviations."""
    gradient = torch.where(at.gradient.isfinite(), at.gradient, 0.0)
    white = (factor.transpose(-2, -1) @ gradient.unsqueeze(-1)).squeeze(-1)
    return (factor @ white.unsqueeze(-1)).squeeze(-1), white.square().sum(-1) / 2


def _search(density: Density, u: Tensor, direction: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """The best of the step lengths, and whether it gains anything."""
    steps = _STEPS.to(u)
    points = u.unsqueeze(1) + steps.reshape(1, -1, 1) * direction.unsqueeze(1)
    flat = points.reshape(-1, u.shape[1])
    found = density.heights(flat).reshape(len(u), -1)
    best, which = found.max(1)
    moved = points[torch.arange(len(u)), which]
    return moved, (best > height) | ~height.isfinite()
