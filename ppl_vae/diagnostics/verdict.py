"""The verdict: what the numbers say, in one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.diagnostics.baseline import Baseline, baselines, some_of, unchanging
from ppl_vae.diagnostics.collapse import ActiveUnits, active_units
from ppl_vae.diagnostics.comparison import Difference, nats, on_scores
from ppl_vae.evidence import Decomposition, Evidence, decomposition
from ppl_vae.evidence.chunks import MAX_ELEMENTS, takes_single_rows
from ppl_vae.evidence.evidence import percent
from ppl_vae.evidence.pooling import KHAT_LIMIT
from ppl_vae.pair import pair_of
from ppl_vae.training.rising import Rise

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Verdict", "verdict"]

TRAIN_ROWS = 1000
"""Training rows that are scored beside the others, spread evenly."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """How good a fitted pair is, in words: ``str(verdict)``.

    Attributes:
        active, total: how many latent dimensions move with the datum, of how many (continuous, inside the
            data plate).
        khat: per datum, (N,), or () with latents shared by all data.
        gap: evidence - ELBO, nats: the mean over the data, or for all together with shared latents.
        gap_error: its Monte Carlo standard error, nats.
        noun: what the data are called.
        exact: the evidence is exact, so that no k-hat is needed.
        num_rows: N; by default the number of k-hats.
        evidence: the estimate of log p(x) that all stands on, with its ESS and error bars.
        train: the estimate for training rows.
        baselines: simple models of the same rows.
        names: of the rows; by default their numbers.
        no_baseline: why there is none, in words.
        rise: how far the ELBO was still rising when the fit ended.

    >>> Verdict(6, 8, torch.tensor([0.1, 0.4, 0.2, 0.3]), 0.93, 0.01, "test digits")
    6 of 8 latent dimensions are active; 100 % of 4 test digits have k-hat < 0.7; the ELBO is 0.9 nats per row below
    the evidence
    """

    active: int
    total: int
    khat: Tensor
    gap: float
    gap_error: float
    noun: str = "rows"
    exact: bool = False
    num_rows: int | None = None
    evidence: Evidence | None = None
    train: Evidence | None = None
    baselines: Sequence[Baseline] = ()
    names: Sequence[Any] | None = None
    no_baseline: str = ""
    rise: Rise | None = None

    @classmethod
    def of(
        cls,
        pieces: Decomposition,
        units: ActiveUnits | None = None,
        *,
        noun: str = "rows",
        num_rows: int | None = None,
        train: Evidence | None = None,
        baselines: Sequence[Baseline] = (),
        names: Sequence[Any] | None = None,
        no_baseline: str = "",
        rise: Rise | None = None,
    ) -> Verdict:
        """Judge by numbers that have been made already."""
        errors = pieces.standard_error["gap"]
        error = float(errors.square().sum().sqrt()) / max(1, errors.numel())
        active, total = (units.count, units.total) if units is not None else (0, 0)
        found, exact = pieces.evidence, pieces.evidence.bound == "exact"
        gap, simple = float(pieces.gap.mean()), tuple(baselines)
        judged = (active, total, found.khat, gap, error, noun, exact, num_rows, found, train)
        return cls(*judged, simple, names, no_baseline, rise)

    @property
    def reliable(self) -> Tensor:
        """May the estimate of log p(x) be taken for it? Bool, (N,) or ()."""
        if self.evidence is not None:
            return self.evidence.reliable
        return torch.ones_like(self.khat, dtype=torch.bool) if self.exact else self.khat < KHAT_LIMIT

    @property
    def overfitting(self) -> Difference | None:
        """How far the rows score above the training rows, which is below if it is negative; nats per row."""
        if self.train is None or self.evidence is None or not self.evidence.value.dim() or not self.train.value.dim():
            return None
        return Difference.of_samples(self.evidence.value, self.train.value, self._error_of_difference)

    @property
    def _error_of_difference(self) -> float:
        """The Monte Carlo error of the rows' mean score and of that of the training rows, together."""
        sides = [side.mean().known_error for side in (self.evidence, self.train) if side is not None]
        return math.hypot(*sides)

    def __str__(self) -> str:
        clauses = [_on_dimensions(self.active, self.total), self.on_trust(), self.on_gap()]
        clauses += [*self.on_rows(), self.on_baselines(), "" if self.rise is None else str(self.rise)]
        return "; ".join(clause for clause in clauses if clause)

    __repr__ = __str__

    # -- the clauses ---------------------------------------------------------------------------------------------------

    def on_trust(self) -> str:
        """How many k-hats are below the limit, or that none are needed."""
        khat, size = self.khat, self.khat.numel()
        if self.exact:
            of_rows = "" if not khat.dim() else " of the one row" if size == 1 else f" of all {size} {self.noun}"
            return f"the log-likelihood{of_rows} is exact"
        if bool(torch.isnan(khat).all()):
            return "k-hat is not known"
        if size == 1:
            if khat < KHAT_LIMIT and not bool(self.reliable):
                return ""  # one draw carries the sum: its tail says nothing, and what follows says why
            sign = "<" if khat < KHAT_LIMIT else ">="
            of_one = " of the one row" if khat.dim() else ""
            return f"k-hat{of_one} is {float(khat):.2f} ({sign} {KHAT_LIMIT})"
        return f"{percent(khat < KHAT_LIMIT)} of {size} {self.noun} have k-hat < {KHAT_LIMIT}"

    def on_gap(self) -> str:
        """How far the ELBO lies below log p(x), as far as that is known."""
        unit, doubt = self._unit(), self._doubt()
        if math.isnan(self.gap):
            return "the gap between the ELBO and log p(x) is not known"
        if self.gap < 0.001:
            if doubt:
                return f"how far the ELBO lies below log p(x) is not known; {doubt}"
            return f"the ELBO equals the evidence within 0.001 {unit}"
        if doubt:
            return f"the ELBO is at least {nats(self.gap)} {unit} below log p(x); {doubt}"
        return f"the ELBO is {nats(self.gap)} {unit} below the evidence"

    def _unit(self) -> str:
        if self.khat.dim():
            return "nats per row"
        return f"nats in all ({self.num_rows} rows)" if self.num_rows else "nats in all"

    def _doubt(self) -> str:
        """Why the estimate is not to be taken for log p(x); nothing where it may be."""
        bad = ~self.reliable
        if not bool(bad.any()):
            return ""
        if bad.numel() > 1:
            of_all = "any" if bool(bad.all()) else f"{int(bad.sum())} of {bad.numel()}"
            return f"the estimate of log p(x) is not reliable for {of_all} {self.noun}"
        signs = [] if bool(self.khat.isnan()) else [f"k-hat {float(self.khat):.1f}"]
        signs += [] if self.evidence is None else [f"ESS {float(self.evidence.ess):.1f}"]
        return "the estimate of log p(x) is not reliable" + (f" ({', '.join(signs)})" if signs else "")

    def on_rows(self) -> list[str]:
        """How far the rows score below the training rows, and whose doing it is."""
        if self.evidence is None or not self.evidence.value.dim():
            return []
        names = range(len(self.evidence.value)) if self.names is None else self.names
        train = None if self.train is None or self.overfitting is None else self.train.value
        return on_scores(self.evidence.value, train, names=names, noun=self.noun, monte_carlo=self._error_of_difference)

    def on_baselines(self) -> str:
        """How far the rows score above simple models, or why there are none."""
        scored = self.evidence is not None and self.evidence.value.dim() and self.evidence.value.isfinite().all()
        if self.evidence is None or not scored or not self.baselines:
            return f"there is no baseline: {self.no_baseline}" if self.no_baseline else ""
        error = self.evidence.mean().known_error
        margins = [f"{Difference.of_pairs(self.evidence.value, b.value, error)} {b.name}" for b in self.baselines]
        return f"{self.noun} score {', '.join(margins)}"


def verdict(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    train: Any = None,
    noun: str = "rows",
    columns: str = "columns",
    num_samples: int = 1000,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Verdict:
    """Judge a pair on data: active latent dimensions, k-hat, the gap between ELBO and evidence; and beside others.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, best those that were not trained on.
        train: the training rows: log p(x) of up to 1000 of them stands beside that of ``data``, and simple baselines
            are fitted to them. A Fit's own method takes those of its run.
        noun: what to call the rows, such as "test digits".
        columns: what to call the columns, such as "pixels".
        num_samples: draws of the guide a datum.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        a Verdict; its text is the sentence.
    """
    rise: Rise | None = getattr(pair, "rise", None)  # a pair by itself has no history
    pair = pair_of(pair)
    rows = pair.rows(data)
    pieces = decomposition(pair, rows, num_samples=num_samples, seed=seed, max_elements=max_elements)
    units = active_units(pair, rows, seed=seed, max_elements=max_elements) if len(rows) > 1 else None
    beside, simple, missing = None, [], ""
    if train is not None and pieces.elbo.dim():
        known = pair.rows(train)
        simple = baselines(pair, known, rows, columns=columns)
        missing = "" if simple else unchanging(pair, known, columns=columns)
        if not pair.takes("index") and known.columns == rows.columns and not same_rows(known, rows):
            some = some_of(known, TRAIN_ROWS) if takes_single_rows(pair, known) else known
            beside = decomposition(pair, some, num_samples=num_samples, seed=seed, max_elements=max_elements).evidence
    return Verdict.of(
        pieces,
        units,
        noun=noun,
        num_rows=len(rows) or None,
        train=beside,
        baselines=simple,
        names=_names(data, rows),
        no_baseline=missing,
        rise=rise,
    )


def same_rows(rows: Source, others: Source) -> bool:
    """Are these the same rows, as far as the first thousand tell?"""
    if len(rows) != len(others):
        return False
    first, second = (source.take(slice(0, 1000)) for source in (rows, others))
    pairs = zip((*first.args, *first.kwargs.values()), (*second.args, *second.kwargs.values()), strict=False)
    return all(a.shape == b.shape and bool(((a == b) | (a != a)).all()) for a, b in pairs)


def _names(data: Any, rows: Source) -> Sequence[Any] | None:
    """The index of a frame, or the numbers that the rows have in a larger whole."""
    if hasattr(data, "iloc"):
        return [str(label) for label in data.index]
    return None if rows.index is None else rows.index.tolist()


def _on_dimensions(active: int, total: int) -> str:
    if not total:
        return ""
    return f"{active} of {total} latent dimension{'s are' if total > 1 else ' is'} active"
