r"""What the rows say of one another: of many noisy k-hats and errors the lucky ones are not the good ones.

k-hat, value and error of a row are from the same draws. A run that has missed the tail has a low value, a short error
and a small k-hat, all at once, so among rows of like quality "k-hat below 0.7" selects those that have failed. But how
noisy a k-hat is is known: a standard deviation of about (1 + k) / sqrt(M), with M draws in the tail. So the law of the
k-hats without noise is found from all of them, and each row gets the mean of what its k-hat may be; where tails are
heavy, half of its variance is that of rows like it.

Bradley Efron, Carl Morris: "Stein's estimation rule and its competitors: an empirical Bayes approach", 1973.
Nan Laird: "Nonparametric maximum likelihood estimation of a mixing distribution", 1978.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KHAT_LIMIT", "LEAST_ROWS", "Pool", "khat_limit", "pooled_khat"]

KHAT_LIMIT = 0.7
"""Up to this k-hat an importance-weighted average converges at a practical rate (Vehtari et al., 2024)."""

LEAST_ROWS = 10
"""Fewer rows say nothing of one another."""
LOWEST, HIGHEST, STEP = -1.0, 3.0, 0.05
"""Between these k-hats lie those without noise, so far apart."""
ITERATIONS = 300
RAREST = 1e-12
"""Probability that any k keeps, so that a k-hat which no row has is that of something."""
HEAVY = 0.5
"""From this k-hat on a row's own variance is worth no more than that of rows like it; at 0 it needs no help."""


@dataclass(frozen=True)
class Pool:
    """What the k-hats of all rows say of each.

    Attributes:
        khat: (N,), the mean of what a row's k-hat may be without its noise.
        likeness: (bins, grid), the probability of each k without noise, given a k-hat of the bin.
        bin: (N,) long, where a row's k-hat falls; -1 where it is not finite.
    """

    khat: Tensor
    likeness: Tensor
    bin: Tensor

    @classmethod
    def of(cls, khat: Tensor, num_draws: int | None) -> Pool | None:
        """Of k-hats (N,), each from so many draws; None where these are not known, or rows are fewer than 10."""
        known = khat.isfinite()
        if num_draws is None or khat.dim() != 1 or int(known.sum()) < LEAST_ROWS:
            return None
        grid = torch.arange(LOWEST, HIGHEST + STEP / 2, STEP, dtype=torch.float64)
        bins = torch.arange(LOWEST, HIGHEST + STEP / 4, STEP / 2, dtype=torch.float64)
        place = ((khat.double() - LOWEST) / (STEP / 2)).round().nan_to_num(0.0, 0.0, 0.0).clamp(0, len(bins) - 1).long()
        count = torch.bincount(place[known], minlength=len(bins)).double()
        noise = tail_noise(grid, num_draws).clamp(min=STEP)
        log_density = -0.5 * ((bins.unsqueeze(-1) - grid) / noise).square() - noise.log()
        density = (log_density - log_density.amax(-1, keepdim=True)).exp()
        prior = torch.full_like(grid, 1 / len(grid))
        for _ in range(ITERATIONS):  # EM: each bin's rows are shared out by the present law, which becomes their sum
            likeness = density * prior
            likeness = likeness / likeness.sum(-1, keepdim=True)
            prior = ((count / count.sum()) @ likeness).clamp(min=RAREST)
        mean = (likeness @ grid)[place].to(khat.dtype)
        return cls(torch.where(known, mean, khat), likeness, torch.where(known, place, -1))

    def error(self, error: Tensor) -> Tensor:
        """Standard errors (N,), where they are helped by those of rows like them; what is not known stays so."""
        own = error.double().square()
        known = own.isfinite() & (own > 0) & (self.bin >= 0)
        if not bool(known.any()):
            return error
        likeness = self.likeness[self.bin[known]]
        of_grid = (own[known] @ likeness) / likeness.sum(0).clamp(min=torch.finfo(own.dtype).tiny)
        share = (self.khat[known].double() / HEAVY).clamp(0.0, 1.0) / 2
        helped = own.clone()
        helped[known] = torch.maximum(own[known], own[known] + share * (likeness @ of_grid - own[known]))
        return helped.sqrt().to(error.dtype)


def tail_noise(khat: Tensor, num_draws: int) -> Tensor:
    """The standard deviation of k-hats of so many draws, with the weak prior that PSIS puts on them."""
    tail = max(5.0, min(num_draws / 5, 3 * math.sqrt(num_draws)))
    return (1 + khat.clamp(min=0.0)) / math.sqrt(tail) * tail / (tail + 10)


def pooled_khat(khat: Tensor, num_draws: int | None) -> Tensor:
    """Each k-hat as far as it is no noise, (N,); see :class:`Pool`. Where nothing is known of noise it is itself.

    >>> noisy = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.75, 0.65, 0.55, 3.0])
    >>> [round(k, 1) for k in pooled_khat(noisy, 1000).tolist()]
    [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.6, 0.6, 3.0]
    """
    pool = Pool.of(khat, num_draws)
    return khat if pool is None else pool.khat


def khat_limit(num_draws: int) -> float:
    r"""Up to this k-hat an average over so many weighted draws converges at a practical rate.

    .. math:: min(1 - 1 / \log_{10} S, 0.7)

    Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry: "Pareto smoothed importance sampling", 2024.

    >>> round(khat_limit(100), 2), khat_limit(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(num_draws, 2)), KHAT_LIMIT)
