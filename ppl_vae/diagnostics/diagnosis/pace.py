"""How much can be asked in a given time: sizes of the checks follow from what a draw of a row takes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.evidence import decomposition

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["Pace", "spread"]

TRIED_ROWS, TRIED_DRAWS = 20, 250


@dataclass(frozen=True)
class Pace:
    """How fast a pair draws and scores.

    Attributes:
        seconds: for all checks together, about.
        per_draw: seconds that one draw of one row takes, as an estimate of log p(x) makes it.

    >>> Pace(60.0, 1e-5).draws(0.1)
    600000
    """

    seconds: float
    per_draw: float

    @classmethod
    def of(cls, pair: Pair, rows: Source, *, seconds: float, whole: bool, seed: int = 0) -> Pace:
        """Try: by the second of two tries, since what is made once is made in the first.

        Args:
            pair: whose.
            rows: some of them are tried.
            seconds: for all checks.
            whole: can rows not be told apart? Then all are tried, with few draws.
            seed: of the draws.
        """
        some = rows if whole else rows.take(spread(len(rows), TRIED_ROWS))
        draws = max(2, TRIED_ROWS * TRIED_DRAWS // max(1, len(some)))
        for _ in range(2):
            began = time.perf_counter()
            decomposition(pair, some, num_samples=draws, seed=seed)
            took = time.perf_counter() - began
        return cls(seconds, max(took, 1e-9) / (draws * max(1, len(some))))

    def draws(self, share: float) -> int:
        """Draws of a row, over all rows, that this share of the time is enough for."""
        return int(min(share * self.seconds / self.per_draw, 1e15)) if math.isfinite(self.seconds) else 10**15


def spread(count: int, some: int) -> Tensor:
    """So many of ``count`` row numbers, as evenly as can be, the first and the last among them.

    >>> spread(10, 3).tolist(), spread(3, 9).tolist()
    ([0, 4, 9], [0, 1, 2])
    """
    if some >= count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, some, dtype=torch.float64).round().long()
