"""What is examined: a pair, the rows that it is judged on, and numbers that several checks share, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.headers import header_of
from ppl_vae.diagnostics.baseline import Baseline, baselines, some_of
from ppl_vae.diagnostics.diagnosis.pace import Pace, spread
from ppl_vae.diagnostics.leave_one_out import LeaveOneOut, loo
from ppl_vae.diagnostics.verdict import TRAIN_ROWS, Verdict, same_rows
from ppl_vae.evidence import Decomposition, Evidence, PredictiveDensity, decomposition, elbo, log_predictive
from ppl_vae.pair import pair_of
from ppl_vae.pair.blocks import takes_single_rows

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Scores", "Subject"]

MOST_ROWS = 1000
"""Rows whose evidence is estimated, spread evenly over all."""
MOST_DRAWS, LEAST_DRAWS, LEAST_ROWS = 1000, 100, 20
HELD = 20_000_000
"""Numbers that draws of shared latents by rows may take in memory, of eight bytes each."""
SCREEN_DRAWS = 16
"""Draws of the ELBO that all rows are looked through by, where they are many."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the fit says of single rows, (N,) nats; ``what`` in words.

    ``error`` and ``khat`` are nan, and ``monte_carlo`` (of the mean) 0, where they were not asked for.
    """

    what: str
    value: Tensor
    error: Tensor
    khat: Tensor
    monte_carlo: float
    names: Sequence[Any]

    @classmethod
    def of(cls, found: Evidence | PredictiveDensity, what: str, names: Sequence[Any]) -> Scores:
        """Of a result that has a value a row."""
        return cls(what, found.value, found.standard_error, found.khat, found.mean().known_error, names)


@dataclass(eq=False)
class Subject:
    """A pair and all that checks ask of it.

    Attributes:
        pair: what is judged.
        fit: the Fit that holds it, with the record of its run; None for a pair by itself.
        given: all rows that were given.
        rows: those that are judged, spread evenly over them; with latents that all data share the rows of the fit.
        train: rows of the fit beside which the given ones stand; None where they are not at hand, or are the same.
        all_names, names: what the given rows, and those that are judged, are called.
        noun, columns: what rows and columns are called.
        image_shape: of one row, where rows are images.
        pace: what a draw takes, and how long all may take.
        thorough: is time no matter?
        seed: of all draws.
        max_elements: how many numbers one run of the pair may handle.
    """

    pair: Pair
    fit: Any
    given: Source
    rows: Source
    train: Source | None
    all_names: Sequence[Any]
    names: Sequence[Any]
    noun: str
    columns: str
    image_shape: tuple[int, ...] | None
    pace: Pace
    thorough: bool
    seed: int
    max_elements: int

    @classmethod
    def of(
        cls,
        pair: Pair | Fitted,
        data: Any,
        *,
        train: Any,
        names: Sequence[Any] | None,
        seconds: float,
        seed: int,
        **options: Any,
    ) -> Subject:
        """Choose the rows.

        Raises:
            ValueError: no rows are given and those of the fit are not at hand; names that are not as many as rows.
        """
        fit = None if pair is pair_of(pair) else pair
        pair = pair_of(pair)
        known = _rows_of_fit(pair, fit, train)
        if data is None and known is None:
            raise ValueError(
                "diagnose: rows are required, and those of the fit are not at hand (it was loaded, or released); "
                "give them: diagnose(fit, x), best with rows held out of the fit"
            )
        given = known if data is None else pair.rows(data)
        assert given is not None
        if known is not None:
            pair.initialize(known)
        pair.initialize(given)
        if known is not None and (data is None or same_rows(known, given)):
            known = None
        all_names = _named(data, given, names)
        judged = given
        if pair.has_global_latents:
            judged = given if known is None else known  # the guide is the posterior given the rows of the fit
        whole = pair.takes("index") or not takes_single_rows(pair, judged)
        pace = _pace(pair, judged, seconds, whole, seed)
        chosen = spread(len(judged), len(judged) if whole else _affordable(pace))
        rows = judged if len(chosen) == len(judged) else judged.take(chosen)
        own = all_names if judged is given else _named(None, judged, None)
        picked = [own[i] for i in chosen.tolist()]
        return cls(pair, fit, given, rows, known, all_names, picked, pace=pace, seed=seed, **options)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Do all data share latents, so that they have one log p(x) together?"""
        return self.pair.has_global_latents

    @property
    def is_whole(self) -> bool:
        """Are all given rows judged?"""
        return len(self.rows) == len(self.given)

    @property
    def local_latents(self) -> list[str]:
        """Latents that each datum has for itself, in the guide."""
        return [name for name, site in self.pair.latents.items() if site.is_local]

    def seed_of(self, who: str) -> int:
        """Noise of its own for each check."""
        return fold(self.seed, "diagnose", who)

    def fewer(self, count: int) -> Source:
        """So many of the rows that are judged, or all of them where they cannot be told apart."""
        return self.rows if self.is_shared or self.pair.takes("index") else some_of(self.rows, count)

    def draws(self, share: float, *, most: int, each: int = 1, least: int = LEAST_DRAWS) -> int:
        """Draws that this share of the time is enough for, each of ``each`` rows."""
        return max(least, min(most, self.pace.draws(share) // max(1, each)))

    # -- numbers that several checks share -----------------------------------------------------------------------------

    @cached_property
    def num_samples(self) -> int:
        """Draws a datum for log p(x)."""
        return self.draws(0.2, most=MOST_DRAWS, each=len(self.rows))

    @cached_property
    def pieces(self) -> Decomposition:
        """The ELBO, its parts, and the evidence, of the rows that are judged."""
        return self._pieces_of(self.rows)

    @cached_property
    def train_pieces(self) -> Decomposition | None:
        """The same of up to 1000 rows of the fit."""
        if self.train is None or self.is_shared or self.pair.takes("index"):
            return None
        return self._pieces_of(some_of(self.train, min(TRAIN_ROWS, _affordable(self.pace))))

    def _pieces_of(self, rows: Source) -> Decomposition:
        return decomposition(
            self.pair, rows, num_samples=self.num_samples, seed=self.seed, max_elements=self.max_elements
        )

    @cached_property
    def judged(self) -> Verdict:
        """The numbers in words, clause by clause."""
        return Verdict.of(self.pieces, noun=self.noun, names=self.names, num_rows=len(self.rows))

    @cached_property
    def baselines(self) -> list[Baseline]:
        """Simple models, fitted to rows of the fit, scored on those that are judged."""
        if self.train is None or self.is_shared:
            return []
        return baselines(self.pair, self.train, self.rows, columns=self.columns)

    @cached_property
    def loo(self) -> LeaveOneOut:
        """Leave-one-out of the rows of the fit."""
        return loo(self.pair, self.rows, **self._shared_options(len(self.rows)))

    def _shared_options(self, count: int) -> dict[str, Any]:
        most = min(4000, max(LEAST_DRAWS, HELD // max(1, count)))
        draws = self.draws(0.1, most=most, each=len(self.rows))
        return {"num_samples": draws, "seed": self.seed, "max_elements": self.max_elements}

    @cached_property
    def scores(self) -> Scores:
        """What the fit says of each of the rows that are judged; of shared latents, of rows that it has not seen."""
        if not self.is_shared:
            return Scores.of(self.pieces.evidence, "log p(x)", self.names)
        if self.train is None:
            return self.known_scores
        options = self._shared_options(len(self.given))
        found = log_predictive(self.pair, self.given, fitted_to=self.train, **options)
        return Scores.of(found, "log p(x | rows of the fit)", self.all_names)

    @cached_property
    def known_scores(self) -> Scores:
        """What the scores stand beside: those of rows of the fit; with shared latents each of them is left out first.

        Raises:
            ValueError: they are not at hand.
        """
        if self.is_shared:
            found = self.loo.pointwise
            error = found.total_error / max(1, len(found.elpd))
            names = self.names
            return Scores("log p(x | all other rows)", found.elpd, found.standard_error, found.khat, error, names)
        if self.train_pieces is None:
            raise ValueError("rows of the fit beside the given ones are required, and there are none")
        evidence = self.train_pieces.evidence
        return Scores.of(evidence, "log p(x)", range(len(evidence.value)))

    @cached_property
    def screened(self) -> Scores:
        """The scores of all given rows: by the ELBO where they are too many for more."""
        if self.is_shared or self.is_whole:
            return self.scores
        looked_at = spread(len(self.given), max(len(self.rows), self.pace.draws(0.05) // SCREEN_DRAWS))
        rows = self.given if len(looked_at) == len(self.given) else self.given.take(looked_at)
        options: Any = {"seed": self.seed_of("screen"), "max_elements": self.max_elements}
        found = elbo(self.pair, rows, num_samples=SCREEN_DRAWS, **options)
        unknown = torch.full_like(found, torch.nan)
        return Scores("ELBO", found, unknown, unknown, 0.0, [self.all_names[i] for i in looked_at.tolist()])


def _rows_of_fit(pair: Pair, fit: Any, given: Any) -> Source | None:
    if given is not None:
        return pair.rows(given)
    of_fit = getattr(fit, "rows_of_fit", None)
    known = of_fit() if of_fit is not None else None
    return None if known is None else pair.rows(known)


def _named(data: Any, rows: Source, names: Sequence[Any] | None) -> Sequence[Any]:
    """The names given, else the index of a frame, else the numbers that the rows have in a larger whole, or here."""
    if names is not None:
        if len(names) != len(rows):
            raise ValueError(f"diagnose: names of {len(rows)} rows are required, got {len(names)}")
        return list(names)
    if (index := header_of(data).index) is not None:
        return index
    return range(len(rows)) if rows.index is None else rows.index.tolist()


def _pace(pair: Pair, rows: Source, seconds: float, whole: bool, seed: int) -> Pace:
    try:
        return Pace.of(pair, rows, seconds=seconds, whole=whole, seed=seed)
    except ValueError:  # a guide without a density: what is left to ask is cheap
        return Pace(seconds, 1e-6)


def _affordable(pace: Pace) -> int:
    """Rows for which there is time, at the least draws."""
    return max(LEAST_ROWS, min(MOST_ROWS, pace.draws(0.2) // LEAST_DRAWS))
