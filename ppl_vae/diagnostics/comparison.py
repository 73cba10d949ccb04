"""A score beside another: the difference of two means with its error, and the rows that make it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Difference", "Worst", "depth", "far_out", "listed", "on_scores", "strays", "worst_rows"]

MOST_NAMED = 5
"""Rows that are named, at most."""
RANGES = 5.0
"""Rows are strays that lie below the tenth percentile by more times the range from there to the 90th: among 200
rows with exponential tails there is hardly ever one, among 200 squares of a normal number in two cases of a hundred."""
NORMAL_MAD = 1.4826
"""The standard deviation of a normal law over its median absolute deviation."""


@dataclass(frozen=True)
class Difference:
    """A mean minus another one, nats per row, with its standard error (sampling and Monte Carlo together).

    >>> Difference(-2.31, 0.28)
    2.3 ± 0.3 nats per row below
    >>> Difference(0.0056, 0.31), Difference(31.234, 0.012), Difference(5.0, math.nan)
    (0.0 ± 0.3 nats per row above, 31.234 ± 0.012 nats per row above, 5.0 (error unknown) nats per row above)
    """

    value: float
    error: float

    @classmethod
    def of_samples(cls, scores: Tensor, others: Tensor, monte_carlo: float = 0.0) -> Difference:
        """Of the scores of different rows."""
        variance = sum(float(s.var()) / len(s) if len(s) > 1 else math.nan for s in (scores, others))
        return cls(float(scores.mean() - others.mean()), math.sqrt(variance + monte_carlo**2))

    @classmethod
    def of_pairs(cls, scores: Tensor, others: Tensor, monte_carlo: float = 0.0) -> Difference:
        """Of two scores of the same rows."""
        apart = scores - others
        variance = float(apart.var()) / len(apart) if len(apart) > 1 else math.nan
        return cls(float(apart.mean()), math.sqrt(variance + monte_carlo**2))

    @property
    def is_shortfall(self) -> bool:
        """Does it lie below 0 by more than its standard error?"""
        return self.value < 0 and not abs(self.value) <= self.error

    def __repr__(self) -> str:
        side = "below" if self.value < 0 else "above"
        if not math.isfinite(self.error):
            return f"{nats(abs(self.value))} (error unknown) nats per row {side}"
        digits = 1 if self.error >= 0.1 or not self.error else 1 - math.floor(math.log10(self.error))
        return f"{abs(self.value):.{digits}f} ± {self.error:.{digits}f} nats per row {side}"


@dataclass(frozen=True)
class Worst:
    """Few rows that make most of what all rows lack.

    Attributes:
        names: theirs.
        share: their share of it, from 0 to 1.
        others: which rows are left, (N,) bool.
    """

    names: tuple[Any, ...]
    share: float
    others: Tensor


def worst_rows(scores: Tensor, reference: float, names: Sequence[Any]) -> Worst | None:
    """The rows that make most of what all that lie below a reference lack together.

    A row is named if a tenth of that is its own; and all are, if they are at most five, a tenth of the rows, and
    make half of it.

    Args:
        scores: (N,) nats.
        reference: a score, such as the mean of the training rows.
        names: of the rows.
    """
    lack = (reference - scores).clamp(min=0.0)
    total = float(lack.sum())
    if not 0 < total < math.inf:
        return None
    share, order = (lack / total).sort(descending=True)
    chosen = order[share >= 0.1][: min(MOST_NAMED, len(scores) // 10)]
    sum_of = float(lack[chosen].sum() / total)
    if sum_of < 0.5:
        return None
    others = torch.ones(len(scores), dtype=torch.bool).index_fill(0, chosen, False)
    return Worst(tuple(names[int(i)] for i in chosen), sum_of, others)


def depth(scores: Tensor) -> Tensor:
    """How many robust standard deviations each score lies below the median, (N,).

    >>> depth(torch.tensor([1.0, 2.0, 3.0, 4.0, -100.0])).round().tolist()
    [1.0, 0.0, -1.0, -1.0, 69.0]
    """
    middle = scores.nanmedian()
    return (middle - scores) / (NORMAL_MAD * (scores - middle).abs().nanmedian())


def strays(scores: Tensor) -> Tensor:
    """The rows that lie far below all that is usual, the lowest first, (M,) long.

    >>> strays(torch.cat([torch.linspace(-20.0, -10.0, 100), torch.tensor([-70.0, -30.0])])).tolist()
    [100]
    """
    known = scores[scores.isfinite()]
    low, high = known.quantile(0.1), known.quantile(0.9)
    order = scores.argsort(stable=True)
    return order[scores[order] < low - RANGES * (high - low)]


def far_out(scores: Tensor, reference: float, names: Sequence[Any]) -> Worst | None:
    """Those of :func:`worst_rows`, if all are strays: of few rows the last ones make most under any law."""
    worst = worst_rows(scores, reference, names)
    if worst is None:
        return None
    lost = set(strays(scores).tolist())
    return worst if lost.issuperset((~worst.others).nonzero()[:, 0].tolist()) else None


def on_scores(
    scores: Tensor, train: Tensor | None, *, names: Sequence[Any], noun: str = "rows", monte_carlo: float = 0.0
) -> list[str]:
    """How far rows score below the training rows, and whose doing it is: clauses of a sentence.

    Args:
        scores: (N,) nats.
        train: (M,) of training rows; without them, whose doing it is that rows lie below the median.
        names: of the rows.
        noun: what the rows are called.
        monte_carlo: the error of the difference of the two means besides the choice of rows, nats.

    >>> on_scores(torch.tensor([-1.0] * 19 + [-100.0]), None, names="abcdefghijklmnopqrst")
    ['1 of 20 rows makes 99 % of what lies below the median: row t']
    """
    n = len(scores)
    if bool(scores.isneginf().any()):
        gone = [names[i] for i in scores.isneginf().nonzero()[:, 0].tolist()]
        return [f"{len(gone)} of {n} {noun} have probability 0: {listed(gone)}"]
    apart = None if train is None else Difference.of_samples(scores, train, monte_carlo)
    clauses = [] if apart is None else [f"{noun} score {apart} the training rows"]
    if apart is not None and apart.value >= 0:
        return clauses  # nothing is lacking, so nobody makes it
    reference = float(scores.median()) if train is None else float(train.mean())
    # One row that is far out makes the difference and its error, which then are about the same.
    search = worst_rows if apart is None or apart.is_shortfall else far_out
    worst = search(scores, reference, names)
    if worst is None:
        return clauses
    few = f"{len(worst.names)} of {n} {noun}"
    if train is None:
        verb, share = "makes" if len(worst.names) == 1 else "make", f"{min(99, round(100 * worst.share))} %"
        return [*clauses, f"{few} {verb} {share} of what lies below the median: {listed(worst.names)}"]
    others = Difference.of_samples(scores[worst.others], train)
    return [*clauses, f"without {few} ({listed(worst.names)}) it would be {others}"]


def listed(names: Sequence[Any]) -> str:
    """Rows by name, five of them at most.

    >>> listed(["a"]), listed(range(7))
    ('row a', 'rows 0, 1, 2, 3, 4, ...')
    """
    shown = ", ".join(str(name) for name in names[:MOST_NAMED])
    return f"row{'s' if len(names) > 1 else ''} {shown}" + (", ..." if len(names) > MOST_NAMED else "")


def nats(value: float) -> str:
    """A number of nats as it is said: one digit after the point, of small ones two digits.

    >>> nats(12.34), nats(0.0341), nats(616.2)
    ('12.3', '0.034', '616.2')
    """
    return f"{value:.1f}" if value >= 0.1 or not math.isfinite(value) else f"{value:.2g}"
