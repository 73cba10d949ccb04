"""The noise that a deterministic fit holds fixed: few draws that know the first two moments of a normal exactly."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["base_draws"]


def base_draws(count: int, dim: int, *, seed: int) -> Tensor:
    """Standard normal draws (count, dim), float64: scrambled Sobol points, each with its mirror image, whitened.

    Mirror images make every odd moment 0; the whitening makes the covariance the identity. So the average of a
    quadratic function over them is its expectation, and a normal posterior is found exactly with any number of draws.

    Args:
        count: even, S.
        dim: the numbers of one draw. Where there are as many as pairs, only variances can be made exact.
        seed: of the scrambling.

    Art Owen, "Scrambling Sobol' and Niederreiter-Xing points", 1998.

    >>> draws = base_draws(64, 3, seed=0)
    >>> bool(torch.allclose(draws.T @ draws / 64, torch.eye(3, dtype=torch.float64)))
    True
    >>> bool(draws.mean(0).abs().max() < 1e-12)
    True
    """
    if count < 2 or count % 2:
        raise ValueError(f"base_draws: an even number of draws is required, got {count}")
    half = _points(count // 2, dim, seed)
    if 2 * dim <= len(half):
        factor = torch.linalg.cholesky(half.T @ half / len(half))
        half = torch.linalg.solve_triangular(factor, half.T, upper=False).T
    else:
        half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])


def _points(count: int, dim: int, seed: int) -> Tensor:
    if dim > torch.quasirandom.SobolEngine.MAXDIM:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, dim, dtype=torch.float64, generator=generator)
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    edge = torch.finfo(torch.float64).eps
    return torch.special.ndtri(uniform.clamp(edge, 1 - edge))
