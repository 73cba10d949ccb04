"""A full-rank normal in the reference's coordinates: how each method's answer is judged, and the best there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriors.oracle import LogDensity
from posteriors.posterior import Posterior, Reference

BEST_DRAWS = 4096


@dataclass(frozen=True)
class Normal:
    """u = mean + factor e, with e standard normal.

    Attributes:
        mean: (D,).
        factor: (D, D), not always triangular: rows may have been put in another order.
    """

    mean: Tensor
    factor: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Draws (S, D) from standard noise (S, D)."""
        return self.mean + noise @ self.factor.mT

    @property
    def entropy(self) -> Tensor:
        """Nats."""
        size = len(self.mean)
        return torch.linalg.slogdet(self.factor).logabsdet + size * 0.5 * (1 + math.log(2 * math.pi))


def in_order(posterior: Posterior, found: Sequence[str], mean: Tensor, factor: Tensor) -> Normal:
    """The normal of a library that has the sites in another order, in the reference's."""
    sizes = [posterior.sizes.get(name, 1) for name in found]
    places = dict(zip(found, torch.arange(sum(sizes)).split(sizes), strict=True))
    index = torch.cat([places[name] for name in posterior.supports])
    return Normal(mean.double()[index], factor.double()[index])


class Judge:
    """The ELBO of any normal on common noise: differences between methods are not of the noise.

    Antithetic draws with mean 0 and covariance 1 exactly, so that the error of a good normal is small.
    """

    def __init__(self, log_density: LogDensity, size: int, *, draws: int = 4096, seed: int = 1) -> None:
        self.log_density, self.noise = log_density, matched(draws, size, seed)

    def elbo(self, normal: Normal) -> float:
        """Nats; minus infinity where a draw has no finite density."""
        if not bool(normal.mean.isfinite().all() and normal.factor.isfinite().all()):
            return -math.inf
        value = float(self.log_density(normal.at(self.noise)).mean() + normal.entropy)
        return value if math.isfinite(value) else -math.inf


def matched(draws: int, size: int, seed: int) -> Tensor:
    """Standard normal noise (S, D), antithetic, of covariance 1."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn((draws + 1) // 2, size, generator=generator, dtype=torch.float64)
    noise = torch.cat([half, -half])
    factor = torch.linalg.cholesky(noise.mT @ noise / len(noise))
    return torch.linalg.solve_triangular(factor, noise.mT, upper=False).mT


def best_normal(posterior: Posterior, log_density: LogDensity, reference: Reference) -> Normal:
    """The full-rank normal of the highest ELBO, by L-BFGS from the reference's moments on 4096 fixed draws.

    It is told the answer to start with, so that it stands for the best that any full-rank fit can do.
    """
    size, pair = len(reference.mean), log_density.pair
    density, start = pair.density(log_density.batch), torch.linalg.cholesky(reference.cov)
    noise = matched(BEST_DRAWS, size, seed=2)
    loc = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    packed = torch.zeros(size, size, dtype=torch.float64, requires_grad=True)

    def moved() -> tuple[Tensor, Tensor]:
        inner = packed.tril(-1) + packed.diagonal().exp().diag()
        return reference.mean + start @ loc, start @ inner

    def loss() -> Tensor:
        mean, factor = moved()
        u = sites_of(posterior, mean + noise @ factor.mT)
        return -(density(u).total().mean() + packed.diagonal().sum())

    optimizer = torch.optim.LBFGS(
        [loc, packed], max_iter=300, history_size=50, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return Normal(*(part.clone() for part in moved()))


def sites_of(posterior: Posterior, u: Tensor) -> Mapping[str, Tensor]:
    """Coordinates (S, D) as unconstrained values by site, (S,) or (S, size)."""
    pieces = u.split([posterior.sizes.get(name, 1) for name in posterior.supports], -1)
    named = zip(posterior.supports, pieces, strict=True)
    return {name: piece if name in posterior.sizes else piece.squeeze(-1) for name, piece in named}
