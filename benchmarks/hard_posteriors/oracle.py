"""What is judged: the ELBO of a fit beside the best of its family, and the mass that it misses.

The best is looked for by an optimizer of its own from places that only the generator of the problem knows: its modes,
the moments of its exact draws, and where the fit has ended (so that the best is never below the fit, but for noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from hard_posteriors.problem import Problem
from ppl_vae.pair.fixed_noise import FixedNoise
from ppl_vae.result import Fit

FITTED, JUDGED = 256, 4096
COVERED = 0.1
"""A draw of the posterior is missed where the guide has less than this share of the posterior's density."""


@dataclass(frozen=True)
class Answer:
    """What is true of a fit.

    Attributes:
        gap: the best of the family less the fit's ELBO on common noise, nats.
        missed: the share of the posterior where the guide has less than a tenth of its density; nan: not known.
    """

    gap: float
    missed: float


def judge(problem: Problem, fit: Fit) -> Answer:
    """Measure a fit."""
    noise = FixedNoise(fit.pair, fit.pair.rows(problem.data).batch())
    with noise.scope(), torch.no_grad():
        zero = torch.zeros(2, noise.noise_dim, dtype=torch.float64)
        loc = noise.at_noise(zero).u[0]
        ways = torch.cat([torch.eye(noise.noise_dim, dtype=torch.float64), zero])
        factor = (noise.at_noise(ways).u[:-2] - loc).T
    full = any(law.has_covariance for law in noise.laws.values())
    with noise.scope():
        if problem.best == math.inf:
            return Answer(math.inf, math.nan)
        draws = matched(JUDGED, noise.dim, seed=1)
        mine = _elbo(noise, loc, factor, draws)
        best = problem.best
        if best is None:
            ends = [_climbed(noise, m, c, full) for m, c in _places(problem, noise, loc, factor)]
            best = max(_elbo(noise, m, c, draws) for m, c in ends)
        return Answer(best - mine, _missed(problem, loc, factor))


def _places(problem: Problem, noise: FixedNoise, loc: Tensor, factor: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Normals from which the best is looked for: the fit's own, those at known points, and that of the draws."""
    yield loc, factor
    if problem.exact is not None:
        u = problem.exact.u
        yield u.mean(0), torch.linalg.cholesky(u.T.cov().reshape(noise.dim, noise.dim))
    for point in problem.near if problem.near is not None else ():
        yield _laplace(noise.at, point)


def _laplace(log_p: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    """The normal at the top that L-BFGS finds from a point; where its curvature makes none, one of magnitudes."""

    def fall(v: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.as_tensor(v).unsqueeze(0).requires_grad_()
        value = log_p(u).sum()
        (gradient,) = torch.autograd.grad(value, u)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return 1e12, np.zeros_like(v)
        return -float(value.detach()), -gradient[0].numpy()

    top = torch.as_tensor(
        optimize.minimize(fall, point.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    )
    hessian = torch.autograd.functional.hessian(lambda u: log_p(u.unsqueeze(0)).sum(), top)
    values, vectors = torch.linalg.eigh(-(hessian + hessian.T) / 2)
    spread = values.abs().clamp(1e-8, 1e12).rsqrt()
    return top, torch.linalg.cholesky((vectors * spread**2) @ vectors.T)


def _climbed(noise: FixedNoise, loc: Tensor, factor: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """The normal of the highest ELBO near a given one, on fixed draws."""
    dim = len(loc)
    draws = matched(max(FITTED, 4 * dim), dim, seed=2)
    if not full:
        factor = torch.diag(torch.linalg.inv(factor @ factor.T).diagonal().rsqrt())
    rows, columns = torch.tril_indices(dim, dim, -1)
    below = len(rows) if full else 0

    def normal(v: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = v.split([dim, dim, below])
        inner = torch.diag(b.exp())
        inner = inner.index_put((rows, columns), c) if full else inner
        return loc + factor @ a, factor @ inner

    def fall(v: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.as_tensor(v).requires_grad_()
        m, c = normal(at)
        value = noise.at(m + draws @ c.T).mean() + at[dim : 2 * dim].sum()
        (gradient,) = torch.autograd.grad(value, at)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return 1e12, np.zeros_like(v)
        return -float(value.detach()), -gradient.numpy()

    ended = optimize.minimize(
        fall, np.zeros(2 * dim + below), jac=True, method="L-BFGS-B", options={"maxiter": 150, "ftol": 1e-9}
    )
    with torch.no_grad():
        return normal(torch.as_tensor(ended.x))


def _elbo(noise: FixedNoise, loc: Tensor, factor: Tensor, draws: Tensor) -> float:
    entropy = torch.linalg.slogdet(factor).logabsdet + 0.5 * len(loc) * (1 + math.log(2 * math.pi))
    value = float(noise.heights(loc + draws @ factor.T).mean() + entropy)
    return value if math.isfinite(value) else -math.inf


def _missed(problem: Problem, loc: Tensor, factor: Tensor) -> float:
    if problem.exact is None:
        return math.nan
    white = torch.linalg.solve(factor, (problem.exact.u - loc).T)
    log_det = torch.linalg.slogdet(factor).logabsdet
    log_q = -0.5 * white.square().sum(0) - log_det - 0.5 * len(loc) * math.log(2 * math.pi)
    return float((log_q - problem.exact.log_p < math.log(COVERED)).double().mean())


def matched(count: int, dim: int, *, seed: int) -> Tensor:
    """Standard normal draws (S, D), with mirror images, whitened."""
    half = torch.randn(count // 2, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    factor = torch.linalg.cholesky(half.T @ half / len(half))
    half = torch.linalg.solve_triangular(factor, half.T, upper=False).T
    return torch.cat([half, -half])
