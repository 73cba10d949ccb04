"""The ELBO on draws that the fit has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["MOST_FRESH", "Fresh", "fresh_elbo", "normal_draws", "plain_draws"]

MOST_FRESH = 100_000
"""With so many fresh draws, mirror images among them, no more are made."""
_FEWEST = 2048
WORK = 4_000_000_000
"""Multiplications that a regression may take: rows times the square of columns, part of a second."""


@dataclass(frozen=True)
class Fresh:
    """The ELBO on M independent draws and their mirror images.

    Attributes:
        noise: (M, noise_dim), the first of each two.
        u: (2 M, D), all of them.
        log_weight: (2 M,) their log p - log q, nats, float64; the mirror images last.
        value, error: the ELBO and its standard error, nats.
    """

    noise: Tensor
    u: Tensor
    log_weight: Tensor
    value: float
    error: float


def fresh_elbo(noise: FixedNoise, *, seed: int, before: Fresh | None = None) -> Fresh:
    """Measure the ELBO on plain normal draws: 2048 and their mirror images, or four times as many as ``before``.

    Two mirror images are one draw, so nothing odd scatters; and what the log weights owe to second powers of the noise,
    whose expectations are known, is taken out: for each half of the draws by a regression on the other half, so that
    the mean stays unbiased.

    Args:
        noise: the pair's runs, at the parameters that are measured.
        seed: of the draws.
        before: draws at the same parameters, which are kept.

    Art Owen, "Monte Carlo theory, methods and examples", chapter 8 (antithetic draws, control variates), 2013.
    """
    count = _FEWEST if before is None else 3 * len(before.noise)
    drawn, u, log_weight = _drawn(noise, count, fold(seed, count))
    if before is not None:
        drawn = torch.cat([before.noise, drawn])
        u, log_weight = (_joined(*pair) for pair in ((before.u, u), (before.log_weight, log_weight)))
    value, error = _controlled(drawn, log_weight.reshape(2, -1).mean(0))
    return Fresh(drawn, u, log_weight, value, error)


def plain_draws(noise: FixedNoise, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Independent draws of the guide: u (count, D), and log p - log q (count,), nats, float64."""
    return _measured(noise, normal_draws(noise, count, seed))


def _drawn(noise: FixedNoise, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    half = normal_draws(noise, count, seed)
    return half, *_measured(noise, torch.cat([half, -half]))


def normal_draws(noise: FixedNoise, count: int, seed: int) -> Tensor:
    """Standard normal noise (count, noise_dim), float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, noise.noise_dim, dtype=torch.float64, generator=generator)


def _measured(noise: FixedNoise, draws: Tensor) -> tuple[Tensor, Tensor]:
    parts = []
    with noise.scope(), torch.no_grad():
        for block in draws.to(noise.pair.device, noise.pair.dtype).split(noise.block):
            placed = noise.at_noise(block)
            parts.append((placed.u.cpu().double(), (placed.log_p - placed.log_q).cpu().double()))
    u, log_weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return u, log_weight


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Two sets of draws, each with its mirror images last, as one such set."""
    both = [values.reshape(2, -1, *values.shape[1:]) for values in (first, second)]
    return torch.cat(both, 1).flatten(0, 1)


def _controlled(draws: Tensor, values: Tensor) -> tuple[float, float]:
    """Mean and standard error of values, less what regressions on second powers of the noise explain."""
    if not bool(values.isfinite().all()):
        return float(values.mean()), math.nan
    most = min(len(draws) // 20, math.isqrt(WORK // len(draws)))
    features, rest = _powers(draws, most=most), values.clone()
    halves = torch.arange(len(draws)) % 2 == 0
    for half in (halves, ~halves) if features.shape[1] else ():
        other = ~half
        design = features[other] - features[other].mean(0)
        slopes = torch.linalg.solve(design.T @ design, design.T @ (values[other] - values[other].mean()))
        rest[half] = values[half] - features[half] @ slopes
    return float(rest.mean()), float(rest.std() / math.sqrt(len(rest)))


def _powers(draws: Tensor, *, most: int) -> Tensor:
    """Even functions of the noise with expectation 0: squares less 1, and products, as many as the draws allow."""
    dim = draws.shape[1]
    if dim * (dim + 1) // 2 <= most:
        rows, columns = torch.triu_indices(dim, dim)
        return draws[:, rows] * draws[:, columns] - (rows == columns).to(draws)
    return draws.square() - 1 if dim <= most else draws[:, :0]
