"""What is decided from numbers alone: which rate is tried next, whether a window is at rest, what going on adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ppl_vae.inference.common_noise import Gain

__all__ = ["HEAVY", "RATES", "TRIED_FIRST", "Look", "doubling", "left_to_gain", "next_rate"]

SAFE = 0.5
"""The share of the tolerance that a prediction of what is left must keep: the tail of a network's objective is heavier
than what extrapolates it."""
HEAVY = 0.6
"""The share of a doubling's gain that the next one brings, at least: 1 / time has a half, 1 / sqrt(time) 0.7."""
RHAT = 1.1
"""R-hat of the iterates of a window at rest: Welandawe et al., 2024."""
RATES = tuple(10 ** (-k / 2) for k in range(16, -1, -1))
"""The rates that may be tried, from 1e-8 to 1."""
TRIED_FIRST = 12
"""The number of the rate 0.01 among them."""


@dataclass(frozen=True)
class Look:
    """What a window shows, nats per datum; the objectives are measured on the same noise.

    Attributes:
        drift: from the mean iterate of its first half to that of its second.
        monte_carlo: what the mean iterate is expected to lie below its own limit, because the window is finite.
        progress: from the answer of the phase before to the mean iterate; None in the first phase.
        remaining: what the rest of the way brings, by :func:`left_to_gain`; infinite in the first window.
        rises: has the objective of the steps a trend upwards (at the level of 1 %)?
        rhat: of the iterates: the ninth decile over coordinates.
        tol: what may be left to gain.
    """

    drift: Gain
    monte_carlo: float
    progress: Gain | None
    remaining: float
    rises: bool
    rhat: float
    tol: float

    @property
    def is_at_rest(self) -> bool:
        """Is what the iterates still do a walk about their mean, in the space of parameters, or in nats?

        Or has this rate little more to give: weights of a network wander along what the objective does not see.
        """
        walks = self.rhat <= RHAT or self.drift.value <= 2 * self.monte_carlo
        return not self.rises and (walks or self.remaining <= SAFE * self.tol)

    @property
    def halving(self) -> float:
        """What all later halvings add, at most: the bias of a rate falls with it. Infinite in the first phase."""
        if self.progress is None:
            return math.inf
        return self.progress.at_most

    @property
    def is_noise(self) -> bool:
        """Is it lower rates that promise most, and not more steps?"""
        return self.halving + max(0.0, self.monte_carlo) > self.remaining

    @property
    def pay(self) -> float:
        """What going on is predicted to add. (Both terms of the larger hold what came since an earlier answer.)"""
        return max(self.halving, self.remaining) + max(0.0, self.monte_carlo)

    @property
    def is_done(self) -> bool:
        """Is there no trend, and so little to gain that half of the tolerance holds it?"""
        return not self.rises and self.pay <= SAFE * self.tol


def doubling(way: Gain, begin: float, end: float) -> Gain:
    """What the last doubling of time brings where the way from time ``begin`` to ``end`` brought this.

    A shortfall of 1 / time is lost by 1 / begin - 1 / end on the way, and by 1 / end in the doubling before the end.

    >>> doubling(Gain(0.1, 0.01), 1.0, 2.0)
    Gain(value=0.1, standard_error=0.01)
    """
    return way.times(begin / (end - begin))


def left_to_gain(last: Gain, before: Gain | None) -> float:
    """What is left after a doubling of time brought ``last``, and the doubling before it ``before``; nats per datum.

    A shortfall that falls as a power of time loses the same share in each doubling, so what is left is a geometric
    series: Aitken's extrapolation, with errors of gains added. Shares that are not known from the gains are those of
    time to the power of 3 / 4. None below is believed (the tail of a network's objective is heavier than its
    beginning), and none above four fifths.

    Source: Aitken, "On Bernoulli's numerical solution of algebraic equations", 1926.

    >>> round(left_to_gain(Gain(0.1, 0.0), None), 6), round(left_to_gain(Gain(0.1, 0.0), Gain(0.15, 0.0)), 6)
    (0.15, 0.2)
    """
    gained = last.at_most
    share = HEAVY
    if before is not None and before.value > 2 * before.standard_error:
        share = min(max(gained / (before.value - before.standard_error), HEAVY), 0.8)
    return gained * share / (1 - share)


def next_rate(tried: Mapping[int, float]) -> int | None:
    """The number of the next rate to try, uphill from the best one; None when the best has been found.

    Args:
        tried: what each rate gained, by its number; -inf for one that ended in a NaN.

    >>> next_rate({12: 1.0}), next_rate({12: 1.0, 13: 0.5}), next_rate({12: 1.0, 13: 0.5, 11: 0.2})
    (13, 11, None)
    """
    best = max(tried, key=lambda number: tried[number])
    if math.isinf(tried[best]):
        return min(tried) - 1 if min(tried) else None
    return next((n for n in (best + 1, best - 1) if n not in tried and 0 <= n < len(RATES)), None)
