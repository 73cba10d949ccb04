"""What a matrix of log importance weights says of log p(x): pure functions of (K, N) numbers in nats.

A weight is w = p(x, z) / q(z | x) with z ~ q(z | x), one column a datum. The data never mix, and no factor of
a mini-batch enters: weights stay per datum to the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae._psis import MIN_DRAWS, psis_khat
from ppl_vae.evidence.evidence import Bound, Evidence
from ppl_vae.evidence.fewer import by_fewer

__all__ = [
    "MAX_ERROR",
    "believable",
    "effective_sample_size",
    "khat",
    "log_mean_exp",
    "log_mean_standard_error",
    "summarize",
]


DRAWN_APART = torch.zeros((), dtype=torch.bool)
"""No datum whose draws all coincide in a discrete latent; see :class:`~ppl_vae.evidence.coincidence.Coincidence`."""

MAX_ERROR = 0.5
"""Above this relative error of the mean weight its logarithm has no error bar.

The delta method takes log w for a straight line over the error of the mean weight. What it says,
r = sqrt((K/ESS - 1) / (K - 1)), cannot exceed 1 nat, however far off the value is: a single draw that carries the whole
sum says 1. And where r is a half, an ESS of about 4, the interval w (1 ± 2 r) of the mean weight reaches 0, so that of
its logarithm has no lower end.
"""


MOST_ROUNDING = 0.1
"""Log weights that differ by more nats than this are never called constant, however coarse the numbers are.

Of a log p of -2e8 in float32 the last digit stands for 16 nats: what differs by less says nothing, and is no perfect
guide.
"""


def log_mean_exp(log_weights: Tensor) -> Tensor:
    r"""The log of the mean weight, :math:`\log \frac{1}{K} \sum_k e^{\log w_k}`.

    Args:
        log_weights: shape (K, ...), nats.

    Returns:
        shape (...), nats. Its exponential is unbiased for p(x), so its own expectation lies below log p(x).

    >>> log_mean_exp(torch.tensor([1.0, 3.0]).log()).exp()
    tensor(2.)
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def log_mean_standard_error(log_weights: Tensor) -> Tensor:
    r"""The standard error of :func:`log_mean_exp` by the delta method, :math:`sd(w) / (\sqrt{K} \, \bar w)`.

    An approximation for small errors, and not known (nan) above half a nat; see :data:`MAX_ERROR`. It is itself
    estimated from the weights: where their tail is heavy (k-hat above 0.7) the draws at hand miss the ones that matter,
    and it is far too short; with k-hat above 0.5 there may be no variance to estimate.

    Args:
        log_weights: shape (K, ...), nats.

    Returns:
        shape (...), nats; nan where it is not known: for K = 1, and where few draws carry the sum (ESS below 4).
    """
    relative = (log_weights - finite(log_weights.amax(0))).exp()
    if len(relative) < 2:
        return torch.full_like(relative[0], math.nan)
    return believable(relative.std(0) / (math.sqrt(len(relative)) * relative.mean(0)))


def believable(error: Tensor, most: float = MAX_ERROR) -> Tensor:
    """The standard error of a log mean weight by the delta method, or nan (not known) where that says nothing.

    >>> believable(torch.tensor([0.02, 0.9]))
    tensor([0.0200,    nan])
    """
    return error.masked_fill(error > most, math.nan)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""The number of equal weights worth as much, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, from 1 to K.

    Args:
        log_weights: shape (K, ...), nats.

    Returns:
        shape (...).

    Augustine Kong: "A note on importance sampling using standardized weights", 1992.
    """
    relative = (log_weights - finite(log_weights.amax(0))).exp()
    return relative.sum(0).square() / relative.square().sum(0)


def khat(log_weights: Tensor, *, resolution: float = 1e-9) -> Tensor:
    """The shape of the upper tail of the weights, per datum, by ArviZ's PSIS; see :attr:`Evidence.khat`.

    Args:
        log_weights: shape (K, ...), nats.
        resolution: the relative error of the numbers; weights that spread by no more are constant (k-hat 0).

    Returns:
        shape (...), float64; nan for fewer than 25 draws.
    """
    columns = log_weights.detach().double().reshape(len(log_weights), -1)
    tops = columns.amax(0).abs()
    largest = float(tops[tops.isfinite()].max()) if bool(tops.isfinite().any()) else 1.0
    resolution = min(resolution, MOST_ROUNDING / max(largest, 1.0))
    return torch.from_numpy(psis_khat(columns.numpy(), resolution=resolution)).reshape(log_weights.shape[1:])


def summarize(
    log_weights: Tensor,
    estimator: str,
    *,
    bound: Bound = "lower",
    resolution: float = 1e-9,
    coincide: Tensor = DRAWN_APART,
) -> Evidence:
    """All that a matrix of log weights says of log p(x).

    Args:
        log_weights: shape (K, N) or (K,), nats.
        estimator: the name to report.
        bound: what the value is in expectation.
        resolution: the relative error of the numbers. Weights that spread by no more are constant, as those
            of a guide that equals the posterior: standard error 0, ESS K, k-hat 0.
        coincide: where all draws are one code, (N,) or () bool: there constant weights prove nothing, and error and
            k-hat are not known (nan), the ESS 1.

    Returns:
        an Evidence of shape (N,) or ().
    """
    log_weights = log_weights.detach().double()
    value, ess = log_mean_exp(log_weights), effective_sample_size(log_weights)
    error, tail = log_mean_standard_error(log_weights), khat(log_weights, resolution=resolution)
    found = Evidence(value, error, ess, tail, bound, estimator, fewer_of(log_weights), num_draws=len(log_weights))
    return of_constant(found, is_constant(log_weights, resolution), len(log_weights), coincide)


def fewer_of(log_weights: Tensor) -> Tensor | None:
    """The log mean of fewer weights at a time, for the bias of their log; see :mod:`ppl_vae.evidence.fewer`."""
    top = finite(log_weights.amax(0))
    relative = (log_weights - top).exp()
    found = by_fewer(relative, torch.ones_like(relative[:1]).expand_as(relative), (len(relative),))
    return None if found is None else found + top


def of_constant(found: Evidence, constant: Tensor, count: int, coincide: Tensor) -> Evidence:
    """What K = ``count`` constant weights say: a perfect guide, or nothing, where all draws ``coincide`` in a code."""
    if count < 2:
        return found
    unknown = constant & coincide
    error = found.standard_error.masked_fill(constant, 0.0).masked_fill(unknown, math.nan)
    ess = found.ess.masked_fill(constant, float(count)).masked_fill(unknown, 1.0)
    tail = found.khat if count < MIN_DRAWS else found.khat.masked_fill(constant, 0.0)
    return replace(found, standard_error=error, ess=ess, khat=tail.masked_fill(unknown, math.nan))


def is_constant(log_weights: Tensor, resolution: float) -> Tensor:
    """Do the log weights of a datum spread by no more than ``resolution``, relative? Shape (...), bool."""
    top = log_weights.amax(0)
    return top - log_weights.amin(0) <= (resolution * top.abs().clamp(min=1.0)).clamp(max=MOST_ROUNDING)


def join(parts: Iterable[Evidence]) -> Evidence:
    """Put the evidence of chunks of rows, each (n,), into one of (N,)."""
    parts = list(parts)
    fields: Any = {
        name: torch.cat([getattr(p, name) for p in parts]) for name in ("value", "standard_error", "ess", "khat")
    }
    fewer = [part.fewer for part in parts if part.fewer is not None]
    joined = torch.cat(fewer, 1) if len(fewer) == len(parts) else None
    return replace(parts[0], **fields, fewer=joined)


def finite(maximum: Tensor) -> Tensor:
    """The shift of a stable exponential: 0 where all weights are zero, lest -inf - (-inf) make NaN."""
    return torch.where(maximum.isfinite(), maximum, torch.zeros_like(maximum))
