"""How many draws and rows a report can afford."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.result import Fit

MOST_SAMPLES = 5000  # importance samples a datum
BUDGET = 1_500_000  # draws of the guide in all, for each part of the data
FLOW_BUDGET = 150_000  # the same for a flow, each of whose draws is a pass through all of its layers
FEWEST_SAMPLES = 100
LADDER = (2000, 1000, 500, 200, FEWEST_SAMPLES)  # where time is short, the draws a datum are one of these

SECONDS = 60.0  # of a whole report, by default
TRIED = 4  # rows by which the time is foretold
FEWEST_ROWS = 20
CHEAP = 1_000_000  # numbers in all, for which no forecast is made


@dataclass(frozen=True)
class Effort:
    """What is judged, and by how much.

    Args:
        rows: those that are judged, spread evenly over all of them.
        num_rows: how many there are.
        num_samples: draws a datum.
    """

    rows: Tensor
    num_rows: int
    num_samples: int

    @property
    def index(self) -> list[int]:
        """The numbers of the rows that are judged."""
        return spread(self.num_rows, len(self.rows))


def num_samples(fit: Fit, num_rows: int, *, most: int = MOST_SAMPLES) -> int:
    """Draws a datum; of an exact flow all are the same, and two show it."""
    if fit.is_exact:
        return 2
    budget = min(BUDGET, FLOW_BUDGET) if fit.counts_volume else BUDGET
    return max(FEWEST_SAMPLES, min(most, budget // num_rows))


def affordable(fit: Fit, rows: Tensor, *, seconds: float = SECONDS, seed: int = 0) -> Effort:
    """The draws of each datum, and the rows, that about ``seconds`` are enough for.

    A few rows are tried. Where all would take longer, draws are saved first (down to 100 a datum), then rows. Rows that
    cannot be told apart, as with latents shared by all, are all taken.
    """
    from ppl_vae.pair.blocks import takes_single_rows
    from ppl_vae.pair.table import few_codes

    count, samples = len(rows), num_samples(fit, len(rows))
    whole = Effort(rows, count, samples)
    if fit.is_exact or fit.has_global_latents or fit.takes("index") or count <= FEWEST_ROWS:
        return whole
    if count * samples * _size(fit, rows) < CHEAP or not takes_single_rows(fit.pair, fit.rows(rows)):
        return whole
    share = seconds / (_seconds_of(fit, rows, samples, seed) * count)
    if share >= 1:
        return whole
    if few_codes(fit.pair) is None:
        fewer = next((k for k in LADDER if k <= share * samples), FEWEST_SAMPLES)
        share, samples = share * samples / fewer, fewer
    some = min(count, max(FEWEST_ROWS, int(share * count)))
    return Effort(rows[spread(count, some)], count, samples)


def _size(fit: Fit, rows: Tensor) -> int:
    from ppl_vae.evidence.chunks import numbers_per_datum

    return numbers_per_datum(fit.pair, fit.rows(rows))


def _seconds_of(fit: Fit, rows: Tensor, samples: int, seed: int) -> float:
    """The time that a row takes, by the second of two tries: what is made once is made in the first."""
    from ppl_vae.evidence import decomposition

    some = rows[spread(len(rows), TRIED)]
    decomposition(fit, some, num_samples=FEWEST_SAMPLES, seed=seed)
    began = time.perf_counter()
    decomposition(fit, some, num_samples=samples, seed=seed)
    return max(1e-9, (time.perf_counter() - began) / len(some))


def spread(count: int, some: int) -> list[int]:
    """So many of ``count`` numbers, as evenly as can be.

    >>> spread(10, 3)
    [0, 3, 6]
    """
    return [i * count // some for i in range(some)]
