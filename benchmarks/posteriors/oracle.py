"""Is a Pyro model the file's? Its log Z by importance sampling from a Student t at the reference's moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from posteriors.posterior import Data, Posterior, Reference
from ppl_vae import Pair

DEGREES = 6.0
WIDER = 1.5
"""What the covariance is multiplied by: a posterior with one heavy side is covered better."""


class LogDensity:
    """Log p(x, u) of a posterior's model at coordinates (S, D), in nats, float64, in blocks of draws.

    It is the pair's log joint at the sites' values, and the Jacobian of the coordinates: nothing of a fit is in it.
    """

    def __init__(self, posterior: Posterior, data: Data, *, block: int = 4096) -> None:
        self.posterior, self.block = posterior, block
        model, rows = posterior.bind(data)
        self.pair = Pair(model, AutoMultivariateNormal(model), dtype=torch.float64).initialize(rows)
        self.batch = self.pair.as_batch(rows)
        self.vectorizes = self.pair.vectorizes(self.batch)

    def __call__(self, u: Tensor) -> Tensor:
        """(S,) nats; minus infinity where the model breaks."""
        return torch.cat([self._of(part) for part in u.split(self.block)])

    def _of(self, u: Tensor) -> Tensor:
        values, log_det = self.posterior.values(u)
        try:
            return self.pair.log_joint(self.batch, values).total + log_det
        except torch.linalg.LinAlgError:  # a covariance far out without a Cholesky factor: the others are fine
            if len(u) == 1:
                return u.new_full((1,), -math.inf)
            return torch.cat([self._of(half) for half in u.chunk(2)])


@dataclass(frozen=True)
class Found:
    """log Z in nats, its standard error, and the effective number of draws."""

    log_evidence: float
    error: float
    effective: float


def student_t(reference: Reference, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws (S, D) of a multivariate t at the reference's mean and (wider) covariance, and their log density."""
    generator = torch.Generator().manual_seed(seed)
    size, factor = len(reference.mean), torch.linalg.cholesky(WIDER * reference.cov)
    normal = torch.randn(count, size, generator=generator, dtype=torch.float64)
    # a chi-square of 6 degrees is the sum of six squares
    chi_square = torch.randn(count, int(DEGREES), generator=generator, dtype=torch.float64).square().sum(-1)
    u = reference.mean + (normal / (chi_square / DEGREES).sqrt()[:, None]) @ factor.mT
    squared = normal.square().sum(-1) / (chi_square / DEGREES)
    constant = math.lgamma((DEGREES + size) / 2) - math.lgamma(DEGREES / 2) - size / 2 * math.log(DEGREES * math.pi)
    log_t = constant - factor.diagonal().log().sum() - (DEGREES + size) / 2 * torch.log1p(squared / DEGREES)
    return u, log_t


def evidence(log_density: LogDensity, reference: Reference, *, count: int, seed: int = 0) -> Found:
    """Log Z by importance sampling."""
    u, log_t = student_t(reference, count, seed)
    log_w = log_density(u) - log_t
    log_w = log_w.nan_to_num(nan=-math.inf)  # a draw beyond what the arithmetic of a model can hold has no weight
    shift = log_w.max()
    w = (log_w - shift).exp()
    mean = w.mean()
    error = w.std() / mean / math.sqrt(count)
    return Found(float(mean.log() + shift), float(error), float(w.sum().square() / w.square().sum()))
