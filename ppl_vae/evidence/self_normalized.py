r"""Moments of a posterior from weighted draws, each with its Monte Carlo error: pure functions.

With weights that sum to 1, :math:`\hat\mu = \sum_s w_s f_s`; to first order each draw moves the estimate by
:math:`w_s (f_s - \hat\mu)`, so that :math:`\sum_s w_s^2 (f_s - \hat\mu)^2` is its squared standard error.

An error is not known (nan) where fewer than four draws carry the sum: one draw that weighs all would have none.

Art Owen, "Monte Carlo theory, methods and examples", chapter 9 (importance sampling), 2013.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.evidence.psis import psis_weights

__all__ = ["Estimate", "MomentErrors", "mean_of", "moment_errors", "moments_apart", "quantile_of", "sd_of"]


_FEWEST = 4.0
"""Effective draws below which the delta method says nothing; see ``evidence.weights.MAX_ERROR``."""


@dataclass(frozen=True)
class Estimate:
    """``value`` and its Monte Carlo ``standard_error``, of one shape; nan where it is not known."""

    value: Tensor
    standard_error: Tensor


def _over(weights: Tensor, values: Tensor) -> Tensor:
    """The weights (S,) or (S, N) with axes for the rest of the values (S, ...) or (S, N, ...)."""
    return weights.reshape(*weights.shape, *[1] * (values.dim() - weights.dim()))


def _known(error: Tensor, weights: Tensor) -> Tensor:
    """The standard errors (...) or (N, ...), nan where the weights (S, ...) leave too few draws."""
    few = weights.square().sum(0) * _FEWEST > 1
    return error.masked_fill(few, math.nan)


def mean_of(values: Tensor, weights: Tensor) -> Estimate:
    """The weighted mean over the draws: values (S, ...), weights (S,) or (S, N) that sum to 1 -> (...)."""
    w = _over(weights, values)
    mean = (w * values).sum(0)
    return Estimate(mean, _known((w * (values - mean)).square().sum(0).sqrt(), w))


def sd_of(values: Tensor, weights: Tensor) -> Estimate:
    """The weighted standard deviation over the draws, likewise."""
    w = _over(weights, values)
    apart = values - (w * values).sum(0)
    variance = (w * apart.square()).sum(0)
    sd = variance.sqrt()
    influence = w * (apart.square() - variance) / (2 * torch.where(sd > 0, sd, torch.ones_like(sd)))
    return Estimate(sd, _known(influence.square().sum(0).sqrt(), w))


def quantile_of(values: Tensor, weights: Tensor, probability: float) -> Estimate:
    """The weighted quantile over the draws, likewise; its error is half of what the quantile moves when the probability
    moves by one error of the weighted share below it.

    Raises:
        ValueError: the probability is not within (0, 1).
    """
    if not 0 < probability < 1:
        raise ValueError(f"quantile: a probability within (0, 1) is required, got {probability}")
    order = values.argsort(0)
    ranked = values.gather(0, order)
    w = _over(weights, values).expand_as(values).gather(0, order)
    below = w.cumsum(0)
    value = _at(ranked, below, torch.full_like(below[0], probability))
    share = (w * ((ranked <= value).to(w) - probability)).square().sum(0).sqrt()
    ends = [_at(ranked, below, (probability + sign * share).clamp(0, 1)) for sign in (-1, 1)]
    return Estimate(value, _known((ends[1] - ends[0]) / 2, w))


def _at(ranked: Tensor, below: Tensor, probability: Tensor) -> Tensor:
    place = (below < probability).sum(0).clamp_max(len(ranked) - 1)
    return ranked.gather(0, place.unsqueeze(0)).squeeze(0)


@dataclass(frozen=True)
class MomentErrors:
    """How far the plain draws of a guide are off in D coordinates.

    Attributes:
        mean: (D,) (mean of the guide - mean of the posterior) / sd of the posterior.
        mean_error: (D,) its Monte Carlo error.
        sd: (D,) sd of the guide / sd of the posterior.
        sd_error: (D,) likewise.
    """

    mean: Tensor
    mean_error: Tensor
    sd: Tensor
    sd_error: Tensor


def moment_errors(values: Tensor, log_weight: Tensor) -> MomentErrors:
    """Compare means and sds of a guide with those of the posterior, by the guide's own weighted draws.

    The same draws stand on both sides, so that what they scatter alike cancels: where the weights are constant the
    errors are 0.

    Args:
        values: (S, D) independent draws of the guide.
        log_weight: (S,) their log p - log q, nats.
    """
    values, w = values.double(), psis_weights(log_weight).unsqueeze(-1)
    plain = torch.full_like(w, 1 / len(w))
    posterior, guide = _moments(values, w), _moments(values, plain)
    scale = torch.where(posterior.sd > 0, posterior.sd, torch.ones_like(posterior.sd))
    ratio = guide.sd / scale
    of_mean, of_ratio = guide.of_mean - posterior.of_mean, (guide.of_sd - ratio * posterior.of_sd)
    mean_error, sd_error = (_known(moved.square().sum(0).sqrt(), w) / scale for moved in (of_mean, of_ratio))
    return MomentErrors((guide.mean - posterior.mean) / scale, mean_error, ratio, sd_error)


def moments_apart(guide: Tensor, values: Tensor, log_weight: Tensor) -> MomentErrors:
    """Compare means and sds of draws of a guide with those of the posterior, by weighted draws made elsewhere.

    Draws from a wider proposal see what the guide's own draws do not.

    Args:
        guide: (S, D) independent draws of the guide; or (S, N, ...) of each datum.
        values: (M, D) draws of a proposal; or (M, N, ...).
        log_weight: (M,) log p less the log density of the proposal, nats; or (M, N).
    """
    weights = psis_weights(log_weight)
    mean, sd = mean_of(values, weights), sd_of(values, weights)
    scale = torch.where(sd.value > 0, sd.value, torch.ones_like(sd.value))
    own = guide.std(0)
    mean_error = (mean.standard_error.square() + own.square() / len(guide)).sqrt() / scale
    ratio = own / scale
    sd_error = ratio * ((sd.standard_error / scale).square() + 0.5 / len(guide)).sqrt()
    return MomentErrors((guide.mean(0) - mean.value) / scale, mean_error, ratio, sd_error)


@dataclass(frozen=True)
class _Moments:
    """Mean and sd (D,), and what each draw moves them by (S, D)."""

    mean: Tensor
    sd: Tensor
    of_mean: Tensor
    of_sd: Tensor


def _moments(values: Tensor, w: Tensor) -> _Moments:
    mean = (w * values).sum(0)
    apart = values - mean
    variance = (w * apart.square()).sum(0)
    sd = variance.sqrt()
    return _Moments(mean, sd, w * apart, w * (apart.square() - variance) / (2 * torch.where(sd > 0, sd, 1.0)))
