r"""What the same draws say when fewer of them are taken at a time: how an estimate still rises with K.

The log of a mean lies below the log of its limit, by a bias that falls with the number of draws. The mean of the
estimates by halves of the draws, less the estimate by all, is that bias at K / 2 less that at K; quarters and eighths
tell how fast it falls: as 1 / K where weights have a variance, and slower where their tail is heavy.

Sebastian Nowozin: "Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
Inference", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LEAST_ROWS", "PARTS", "Shortfall", "by_fewer", "shortfall_of"]

PARTS = 8
"""The draws are cut into eighths, and these are put together to quarters and halves."""
LEAST_ROWS = 10
"""Fewer rows than this do not tell the mean bias from its noise."""
SLOWEST = 0.9
"""What of the bias a doubling of K leaves, at most, that is believed."""


def by_fewer(w: Tensor, h: Tensor, counts: Sequence[int]) -> Tensor | None:
    r"""The log estimates by halves, quarters and eighths of the draws, each averaged over its parts.

    Args:
        w: weights p / mixture, (K, ...), relative to whatever is their unit.
        h: guide / mixture, (K, ...); ones where the guide alone proposes.
        counts: how many draws each part of the mixture makes; they follow one another.

    Returns:
        (3, ...), nats, in the unit of w; None for fewer than two draws of each part of the mixture in an eighth.

    >>> w = torch.ones(16, dtype=torch.float64)
    >>> by_fewer(w, w, (16,))
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    if min(counts) < 2 * PARTS:
        return None
    moments = torch.stack([_sums(values, counts) for values in (w, h, w * h)])
    sizes = _sums(w.new_ones(len(w)), counts)
    sums = [(_merged(moments, 2, parts), _merged(sizes, 1, parts)) for parts in (2, 4, PARTS)]
    return torch.stack([_estimates(*of_parts).mean(0) for of_parts in sums])


def _sums(values: Tensor, counts: Sequence[int]) -> Tensor:
    """(C, 8, ...) sums over every eighth draw of each part of the mixture, by where it begins."""
    return torch.stack(
        [torch.stack([own[i::PARTS].sum(0) for i in range(PARTS)]) for own in values.split(list(counts))]
    )


def _merged(sums: Tensor, axis: int, parts: int) -> Tensor:
    """Sums over eighths, along ``axis``, as sums over ``parts`` larger parts."""
    shape = sums.shape
    return sums.reshape(*shape[:axis], PARTS // parts, parts, *shape[axis + 1 :]).sum(axis)


def _estimates(moments: Tensor, sizes: Tensor) -> Tensor:
    """The log estimates of :meth:`Weighed.unbiased`, (parts, ...), from sums of w, h and w h, (3, C, parts, ...)."""
    sizes = sizes.reshape(*sizes.shape, *[1] * (moments.dim() - 3))
    of_w, of_h, of_both = moments
    total = sizes.sum(0)
    shared = (sizes / (sizes - 1) * (of_both - of_w * of_h / sizes)).sum(0) / total**2
    mean = of_w.sum(0) / total
    found = mean * (2 - of_h.sum(0) / total) + shared
    return torch.where(found > 0, found, mean).log()


@dataclass(frozen=True)
class Shortfall:
    """By how much the mean of log evidence over rows is estimated to lie too low.

    Attributes:
        value, error: nats per datum; nan where they are not known.
        spread: the Monte Carlo error of the mean, by what halves of the draws differ by; nan likewise. One row's would
            be a guess, but it is known for every row, also where few draws carry the sum.
    """

    value: float
    error: float
    spread: float


def shortfall_of(value: Tensor, fewer: Tensor | None) -> Shortfall:
    """The bias of the mean of ``value``, (N,), from the estimates by fewer draws, (3, N).

    What the last doubling of K has brought, and what share of it the next one will bring, by the two doublings before.
    The error is that of the first, and half of the whole, since the share is a guess.

    >>> some = torch.linspace(-3.0, -1.0, 50)
    >>> found = shortfall_of(some - 0.1, torch.stack([some - 0.2, some - 0.4, some - 0.8]))
    >>> round(found.value, 6), round(found.error, 6)
    (0.1, 0.05)
    """
    unknown = Shortfall(math.nan, math.nan, math.nan)
    if fewer is None or value.dim() != 1 or len(value) < LEAST_ROWS or not bool(fewer.isfinite().all()):
        return unknown
    rises = torch.stack([value, *fewer]).diff(dim=0).neg()  # by the last doubling of K, by the one before, ...
    last, before, first = (float(rise.mean()) for rise in rises)
    share = (last + before) / (before + first) if before + first > 0 else 0.5
    factor = 1 / (1 / min(max(share, 0.5), SLOWEST) - 1)
    error = factor * float(rises[0].std()) / math.sqrt(len(value))
    found = factor * max(last, 0.0)
    # The mean of two halves' logs lies log cosh(x) below the log of their mean, where x is half of their difference.
    spread = float(rises[0].clamp(min=0.0).exp().acosh().square().sum().sqrt()) / len(value)
    return Shortfall(found, math.hypot(error, found / 2), spread)
