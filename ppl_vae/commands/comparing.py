"""``ppl-vae compare``: what several runs make of the same rows, which none of them was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ppl_vae.recipes.report import Part

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.commands.opening import Opened
    from ppl_vae.diagnostics.comparison import Difference
    from ppl_vae.diagnostics.ranking import Ranking
    from ppl_vae.evidence import Evidence, PredictiveDensity
    from ppl_vae.result import Fit

ERRORS = 2.0
"""A run that lies below the first by more of its standard errors is worse."""


@dataclass(frozen=True)
class Compared:
    """Runs by what they predict.

    Args:
        ranking: the best first.
        first: the run that the others are held against.
        beside_first: by run, but for the first: how far its mean score is from that of the first, paired over rows.
        notes: on the data.
    """

    ranking: Ranking
    first: str
    beside_first: Mapping[str, Difference]
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> list[str]:
        """Runs that predict worse than the first, beyond two standard errors."""
        return [name for name, apart in self.beside_first.items() if not apart.value >= -ERRORS * apart.error]

    def __str__(self) -> str:
        lines = [f"{name}: {apart} {self.first}" for name, apart in self.beside_first.items()]
        return "\n".join([repr(self.ranking), "", *lines])


def compare_runs(runs: Mapping[str, Opened], source: str | None = None, *, seed: int = 0) -> Compared:
    """Score the same rows by every run: log p(x), and log p(x | rows of the fit) where latents are shared.

    Args:
        runs: by name, the one that others are held against first.
        source: other data, all of whose rows are scored; None for the test rows of the runs, which must be of the same
            data.
        seed: of the draws.

    Raises:
        ValueError: fewer than two runs; runs of other data and no ``source``; no rows held out; other values, units or
            kinds of observations, of which densities cannot be compared.
    """
    from ppl_vae.diagnostics import compare
    from ppl_vae.diagnostics.comparison import Difference
    from ppl_vae.diagnostics.ranking import ON_TRUST

    if len(runs) < 2:
        raise ValueError(f"compare: at least two runs are required, got {', '.join(runs) or 'none'}")
    kinds = {opened.plan.data for opened in runs.values()}
    if source is None and len(kinds) > 1:
        raise ValueError(f"compare: these runs are of other data ({', '.join(sorted(kinds))}); name rows by --data")
    rows: dict[str, Tensor] = {}
    notes: dict[str, None] = {}
    for name, opened in runs.items():
        rows[name], told = _rows(opened, source)
        notes |= dict.fromkeys(told)
    _require_same(runs, rows)
    scores = {name: _scores(opened, rows[name], seed) for name, opened in runs.items()}
    first, *others = scores
    ranking = compare(scores)
    ranking = replace(ranking, warnings=tuple(text for text in ranking.warnings if text != ON_TRUST))  # just looked at
    errors = {name: found.mean().known_error for name, found in scores.items()}
    beside = {
        name: Difference.of_pairs(
            scores[name].value, scores[first].value, (errors[name] ** 2 + errors[first] ** 2) ** 0.5
        )
        for name in others
    }
    return Compared(ranking, first, beside, tuple(notes))


def _rows(opened: Opened, source: str | None) -> tuple[Tensor, tuple[str, ...]]:
    if source is not None and source != opened.plan.data:
        dataset = opened.dataset(source, hold_out=False)
        return Part.of_all(dataset).rows, dataset.notes
    dataset = opened.dataset()
    if dataset.test is None:
        raise ValueError(f"compare: {opened.plan.data} has too few rows to hold any out; name others by --data")
    return dataset.test, dataset.notes


def _require_same(runs: Mapping[str, Opened], rows: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all models observe the same numbers, by densities of the same kind."""
    from ppl_vae.evidence.observed import fingerprints

    first, *others = runs
    seen = {name: fingerprints(opened.fit.pair, opened.fit.rows(rows[name])) for name, opened in runs.items()}
    kinds = {name: _kinds(opened.fit) for name, opened in runs.items()}
    for name in others:
        if len(seen[name]) != len(seen[first]) or bool((seen[name] != seen[first]).any()):
            raise ValueError(
                f"compare: {first} and {name} observe other numbers (other columns, or another scale of them): "
                "densities of these cannot be compared"
            )
        if kinds[name] != kinds[first]:
            raise ValueError(
                f"compare: one of {first} and {name} has a probability, and the other a density, of the same numbers: "
                "these cannot be compared"
            )


def _kinds(fit: Fit) -> list[bool]:
    return sorted(site.is_discrete for site in fit.observed.values())


def _scores(opened: Opened, rows: Tensor, seed: int) -> Evidence | PredictiveDensity:
    from ppl_vae.evidence import ImportanceWeighted, log_evidence, log_predictive
    from ppl_vae.pair.table import few_codes
    from ppl_vae.recipes import budget

    fit = opened.fit
    if fit.takes("index"):
        raise ValueError("compare: a pair with parameters for each row of the fit has no score of other rows")
    if fit.has_global_latents:
        options: dict[str, Any] = {"fitted_to": opened.dataset().train, "seed": seed}
        return log_predictive(fit, rows, **options)
    few = few_codes(fit.pair) is not None
    estimator = None if few else ImportanceWeighted(budget.num_samples(fit, len(rows), most=1000))
    return log_evidence(fit, rows, estimator, seed=seed)
