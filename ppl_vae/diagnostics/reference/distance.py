"""How far two sets of draws of a number lie apart, and how far chance alone takes them: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae._random import generator

__all__ = ["chance_of", "wasserstein"]

BRIDGES, POINTS = 1000, 400
LEVEL = 0.99


def wasserstein(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""The 1-Wasserstein distance of two sets of draws, column by column: what moving one onto the other takes.

    .. math:: W_1 = \int |F_x(t) - F_y(t)| \, dt

    Args:
        x: (S, D).
        y: (T, D).
        weights: (T, D) of y, that sum to 1 over the draws; by default equal.

    Returns:
        (D,), in the units of the draws.

    >>> wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]]))
    tensor([2.])
    """
    if weights is None:
        weights = torch.full_like(y, 1 / len(y))
    values, order = torch.cat([x, y]).sort(0)
    steps = torch.cat([torch.full_like(x, 1 / len(x)), -weights]).gather(0, order)
    return (steps.cumsum(0)[:-1].abs() * values.diff(dim=0)).sum(0)


def chance_of(x: Tensor, effective: Tensor, *, seed: int, level: float = LEVEL) -> Tensor:
    r"""The distance that two sets of draws of one distribution keep below in a share ``level`` of all cases.

    The difference of two empirical distribution functions is a Brownian bridge B in the limit:

    .. math:: W_1 \to \sqrt{1/n + 1/m} \int |B(F(t))| \, dt

    Args:
        x: (S, D) draws of the distribution.
        effective: (D,) 1 / (1/n + 1/m), of the effective numbers of draws.
        seed: of the bridges.
        level: from 0 to 1.

    Returns:
        (D,), in the units of the draws.

    Eustasio del Barrio, Evarist Giné, Carlos Matrán: "Central limit theorems for the Wasserstein distance between the
    empirical and the true distributions", 1999.
    """
    grid = torch.arange(1, POINTS, dtype=torch.float64) / POINTS
    noise = torch.randn(BRIDGES, POINTS, dtype=torch.float64, generator=generator(seed, "bridges"))
    walk = noise.cumsum(1) / POINTS**0.5
    bridge = walk[:, :-1] - grid * walk[:, -1:]
    place = (torch.cat([grid.new_zeros(1), grid, grid.new_ones(1)]) * (len(x) - 1)).round().long()
    quantiles = x.double().sort(0).values[place]  # at 0, the points, and 1
    reach = (quantiles[2:] - quantiles[:-2]) / 2  # what each point stands for
    return (bridge.abs() @ reach).quantile(level, 0) / effective.sqrt()
