"""How far off the mean of the weights of a few chains is: by their logarithms, and by those of other rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.evidence.pooling import LEAST_ROWS
from ppl_vae.evidence.weights import finite, log_mean_exp

__all__ = ["pooled_variance", "relative_variance"]

LEFT_BEHIND = 10.0
"""Nats below the log of the mean weight."""
LEAST_CHAINS = 8
"""Fewer chains of one row tell no error of their own."""
HEAVY = 4.0
"""A tail that makes the variance so many times that of normal log weights of the same spread."""


def relative_variance(log_weight: Tensor, ancestor: Tensor | None) -> Tensor:
    r"""The variance of the mean weight, relative to its square, (...).

    Without resampling the log weights are sums over many small steps, about normal, with a variance s²: it is
    :math:`(e^{s^2} / \pi - 1) / S`, where the share :math:`\pi` of them is at most 10 nats below the log of the mean,
    and s² is theirs: what has been left behind counts for nothing, however far. That is steadier than the variance of
    the weights, and, what is more, does not come out small where the run has missed what carries the sum. With
    resampling it is that of the ancestors' shares.

    Hock Peng Chan, Tze Leung Lai: "A general theory of particle filters in hidden Markov models and some applications",
    2013.
    """
    size = len(log_weight)
    if size < 2:
        return torch.full_like(log_weight[0], math.nan)
    if ancestor is None:
        kept = log_weight >= log_mean_exp(log_weight) - LEFT_BEHIND
        number = kept.sum(0)
        mean = torch.where(kept, log_weight, 0.0).sum(0) / number
        variance = torch.where(kept, log_weight - mean, 0.0).square().sum(0) / (number - 1)
        return (variance.exp() * size / number - 1) / size
    weights = (log_weight - finite(log_weight.amax(0))).exp()
    shares = torch.zeros_like(weights).scatter_add(0, ancestor, weights / weights.sum(0))
    return (shares - 1 / size).square().sum(0) * size / (size - 1)


def pooled_variance(own: Tensor, log_weight: Tensor | None, most: float) -> Tensor:
    """The larger of a row's variance and the mean of it and that of all rows, (N,).

    By its own few chains alone the row that has missed something would look best. What few chains do not show is a tail
    to the right: that of all rows' log weights together, each about its own mean, does, and the variance of all is no
    less than that of a mean of weights with this tail. Rows whose own error is too large to be known count as just too
    large; where they are most of the rows, the others are the lucky ones, and no error is known. Nor is it where the
    tail makes far more of the variance than the spread of the rows does: then it has not been seen to its end. Fewer
    than 10 rows say nothing of one another; then 8 chains are the least that have an error.

    Args:
        own: of :func:`relative_variance`.
        log_weight: (S, N); None: tails are not asked.
        most: nats, above which an error is not known.
    """
    if own.dim() != 1 or len(own) < LEAST_ROWS:
        return own if log_weight is None else own * _of_few(len(log_weight))
    known = own.sqrt() <= most
    if int(known.sum()) < len(own) / 2:
        return torch.full_like(own, math.inf)
    of_all = torch.where(known, own, most**2).mean()
    if log_weight is not None:
        of_tail = _of_tail(log_weight[:, known])
        if of_tail > HEAVY * of_all:
            return torch.full_like(own, math.inf)
        of_all = torch.maximum(of_all, of_tail)
    return torch.maximum(own, (own + of_all) / 2)


def _of_few(size: int) -> float:
    """By how much the variance is to be larger since so few chains say it alone: as Student's t is wider."""
    from scipy.stats import norm, t

    return float(t.ppf(0.975, size - 1) / norm.ppf(0.975)) ** 2 if size >= LEAST_CHAINS else math.inf


def _of_tail(log_weight: Tensor) -> Tensor:
    """The relative variance of the mean of S weights, by the spread of all rows' log weights about their means."""
    size = len(log_weight)
    kept = log_weight >= log_mean_exp(log_weight) - LEFT_BEHIND
    mean = torch.where(kept, log_weight, 0.0).sum(0) / kept.sum(0)
    apart = ((log_weight - mean) * math.sqrt(size / (size - 1)))[kept]
    return ((log_mean_exp(2 * apart) - 2 * log_mean_exp(apart)).exp() - 1) / size
