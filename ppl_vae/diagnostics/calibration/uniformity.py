"""Are ranks uniform? The exact band around the diagonal, the p-value that belongs to it, and two others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["EcdfTest", "chi_square_p_value", "fraction_below", "ks_p_value", "symmetry_p_value"]

Array = np.ndarray[Any, Any]
MOST_POINTS = 200
"""Points at which a distribution function is looked at; more of them see nothing that these do not."""
MOST_BINS = 20
BISECTIONS = 30
ROUNDING = 1 + 1e-9
"""Tails that differ by less than this factor are equal: those of z and 1 - z are, but for their last digits."""


@dataclass(frozen=True)
class EcdfTest:
    r"""The empirical distribution function of N independent ranks, each uniform on 0, ..., L where all is well.

    At a point z the number of ranks below it is binomial. A band is pointwise of one level gamma, whose probability to
    hold *everywhere* is found exactly, by a recursion over the points; so is the p-value, the probability that uniform
    ranks leave the narrowest band that these ranks leave. Both say the same: a curve leaves the band of level
    1 - alpha where its p-value is at most alpha.

    Counts at increasing points are a Markov chain; as that of a Poisson process given its end, its steps are
    convolutions. What leaves the band is added up, nothing is subtracted, so small p-values are exact too.

    Args:
        num_ranks: N.
        highest: L, so there are L + 1 ranks.

    Teemu Säilynoja, Paul-Christian Bürkner, Aki Vehtari: "Graphical test for discrete uniformity and its applications
    in goodness-of-fit evaluation and multiple sample comparison", 2022. Amit Moscovich, Boaz Nadler: "Fast calculation
    of boundary crossing probabilities for Poisson processes", 2017.

    >>> round(EcdfTest(4, 1).p_value(np.array([1, 1, 1, 1])), 9)  # one point, four coins on one side: 2 / 2^4
    0.125
    """

    num_ranks: int
    highest: int

    @cached_property
    def cuts(self) -> Array:
        """The ranks k at which the share of ranks <= k is looked at, increasing."""
        return np.unique(np.linspace(0, self.highest - 1, min(self.highest, MOST_POINTS)).round().astype(int))

    @cached_property
    def points(self) -> Array:
        """What that share is of uniform ranks: (k + 1) / (L + 1)."""
        found: Array = (self.cuts + 1) / (self.highest + 1)
        return found

    @cached_property
    def _tails(self) -> tuple[Array, Array]:
        """P(count <= c) and P(count >= c) at every point, (K, N + 1) each; sums of small numbers first."""
        from scipy.stats import binom

        mass = binom.pmf(np.arange(self.num_ranks + 1), self.num_ranks, self.points[:, None])
        return mass.cumsum(1), mass[:, ::-1].cumsum(1)[:, ::-1]

    @cached_property
    def _log_factorials(self) -> Array:
        from scipy.special import gammaln

        found: Array = gammaln(np.arange(self.num_ranks + 1) + 1.0)
        return found

    def counts(self, ranks: Array) -> Array:
        """How many ranks are <= each cut, (K,)."""
        found: Array = np.searchsorted(np.sort(ranks), self.cuts, side="right")
        return found

    def limits(self, gamma: float) -> tuple[Array, Array]:
        """The least and the greatest count at each point whose two-sided tail is above gamma, (K,) each."""
        lower, upper = self._tails
        return (lower <= gamma / 2).sum(1), self.num_ranks - (upper <= gamma / 2).sum(1)

    def p_value(self, ranks: Array) -> float:
        """The probability that uniform ranks leave as narrow a pointwise band somewhere."""
        counts, rows = self.counts(ranks), np.arange(len(self.cuts))
        lower, upper = self._tails
        gamma = 2 * float(np.minimum(lower[rows, counts], upper[rows, counts]).min())
        return min(1.0, self.leaving(gamma * ROUNDING))

    def leaving(self, gamma: float) -> float:
        """The probability that uniform ranks leave the pointwise band of level gamma at one point or more."""
        n, first, before, left = self.num_ranks, 0, 0.0, 0.0
        inside = np.ones(1)  # of the counts first, first + 1, ... that have not left yet
        for point, low, high in zip(self.points, *self.limits(gamma), strict=True):
            mass = np.convolve(inside, self._poisson(n * (point - before)))[: n - first + 1]
            counts, before = np.arange(first, first + len(mass)), float(point)
            kept = (low <= counts) & (counts <= high)
            rest = self._poisson(n * (1 - point), n - counts[~kept])
            left += float((mass[~kept] * rest).sum())
            if not kept.any():
                break
            inside, first = mass[kept], int(counts[kept][0])
        return left / float(self._poisson(n, np.array([n]))[0])

    def _poisson(self, mean: float, counts: Array | None = None) -> Array:
        """Probabilities of these counts; by default of 0, 1, ..., as far as they are above 0."""
        every = np.arange(self.num_ranks + 1) if counts is None else counts
        mass: Array = np.exp(every * np.log(mean) - mean - self._log_factorials[every])
        return mass if counts is not None else mass[: int(mass.nonzero()[0][-1]) + 1]

    def band(self, level: float) -> tuple[Array, Array]:
        """The limits of the share of ranks at ``points`` that uniform ranks keep to everywhere, with this probability.

        Args:
            level: 1 - alpha, such as 0.99.

        Returns:
            lower and upper, (K,) each; the narrowest band of one pointwise level that holds with at least ``level``.
        """
        alpha = 1 - level
        low, high = np.log(alpha / len(self.cuts) / 2), 0.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.leaving(float(np.exp(middle))) <= alpha else (low, middle)
        lower, upper = self.limits(float(np.exp(low)))
        return lower / self.num_ranks, upper / self.num_ranks


def fraction_below(ranks: Array, highest: int, level: float) -> float:
    """The share of ranks 0, ..., L below a fraction of their range, those at its edge in part: ``level`` if uniform.

    >>> fraction_below(np.array([0, 1, 2, 3]), 3, 0.25), fraction_below(np.array([0, 1, 2, 3]), 3, 0.375)
    (0.25, 0.375)
    """
    edge, part = divmod(level * (highest + 1), 1)
    return float((ranks < edge).mean() + part * (ranks == edge).mean())


def chi_square_p_value(ranks: Array, highest: int) -> float:
    """Pearson's test on the histogram of the ranks, in at most 20 bins with 5 ranks or more to be expected in each."""
    from scipy.stats import chisquare

    bins = max(2, min(MOST_BINS, highest + 1, len(ranks) // 5))
    sizes = np.array([len(part) for part in np.array_split(np.arange(highest + 1), bins)])
    edges = np.concatenate([[0], sizes.cumsum()]) - 0.5
    return float(chisquare(np.histogram(ranks, edges)[0], len(ranks) * sizes / (highest + 1)).pvalue)


def ks_p_value(ranks: Array, highest: int) -> float:
    """The test of Kolmogorov and Smirnov, which takes ranks for real numbers on [0, L]: what the package sbi prints."""
    from scipy.stats import kstest, uniform

    return float(kstest(ranks, uniform(0, highest).cdf).pvalue)


def symmetry_p_value(ranks: Array, highest: int) -> float:
    """Are ranks from 0 to L as often low as high? What asks for bias alone, and passes draws that are too narrow.

    Given how far each rank is from the middle, its side is a fair coin. From the farthest on, sides make a random walk,
    and what is tested is how far this gets from 0, by its exact distribution (ranks as far as each other are taken in
    one step, which makes it too large, if anything). The two-sample test of Kolmogorov and Smirnov on ranks and their
    mirror images, which is used for this, takes both for independent of each other.

    C. C. Butler: "A test for symmetry using the sample distribution function", 1969.

    >>> symmetry_p_value(np.array([9, 8, 7, 6]), 9)  # four coins on one side, of either
    0.125
    """
    sides = 2 * np.asarray(ranks) - highest
    sides = sides[sides != 0]
    sizes, place = np.unique(-np.abs(sides), return_inverse=True)
    farthest = int(np.abs(np.bincount(place, np.sign(sides), minlength=len(sizes)).cumsum()).max(initial=0))
    if not farthest:
        return 1.0
    walk, left = np.zeros(2 * farthest + 1), 0.0  # of the places -farthest, ..., farthest, both ends absorbing
    walk[farthest] = 1.0
    for _ in range(len(sides)):
        walk = np.convolve(walk, [0.5, 0.0, 0.5], mode="same")
        left += float(walk[0] + walk[-1])
        walk[[0, -1]] = 0.0
    return min(1.0, left)
