"""What is decided from numbers alone: which rate is tried next, whether a window is at rest, what going on adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ppl_vae.inference.common_noise import Gain

__all__ = ["RATES", "TRIED_FIRST", "Look", "next_rate"]

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
        remaining: what the rest of the way brings, if what is left falls as 1 / time, and time is rate times steps;
            infinite in the first window.
        rises: has the objective of the steps a trend upwards (at the level of 1 %)?
        rhat: of the iterates: the ninth decile over coordinates.
    """

    drift: Gain
    monte_carlo: float
    progress: Gain | None
    remaining: float
    rises: bool
    rhat: float

    @property
    def is_at_rest(self) -> bool:
        """Is what the iterates still do a walk about their mean, in the space of parameters, or in nats?"""
        return not self.rises and (self.rhat <= RHAT or self.drift.value <= 2 * self.monte_carlo)

    @property
    def halving(self) -> float:
        """What all later halvings add, at most: the bias of a rate falls with it. Infinite in the first phase."""
        if self.progress is None:
            return math.inf
        return max(0.0, self.progress.value + self.progress.standard_error)

    @property
    def is_noise(self) -> bool:
        """Is it lower rates that promise most, and not more steps?"""
        return self.halving + max(0.0, self.monte_carlo) > self.remaining

    @property
    def pay(self) -> float:
        """What going on is predicted to add. (Both terms of the larger hold what came since an earlier answer.)"""
        return max(self.halving, self.remaining) + max(0.0, self.monte_carlo)


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
