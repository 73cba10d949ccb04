"""Fits beside each other: which one predicts rows best that it has not seen, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ppl_vae.diagnostics.leave_one_out import LeaveOneOut, loo
from ppl_vae.evidence import Evidence, PredictiveDensity
from ppl_vae.plots.difference_bars import difference_bars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Ranking", "compare"]

WHO = "compare"
FEWEST_ROWS = 100
"""Of fewer rows a sum over them is not yet normal, and its standard error is itself known badly."""
ON_TRUST = "an Evidence does not know its data: that the rows are the same, in one order, is taken on trust"
LEAST_DIFFERENCE = 4.0
"""Nats in all. Of nearly equal models the difference is skewed, and its standard error too small."""


@dataclass(frozen=True)
class _Scores:
    """What a fit says of each row, (N,) nats."""

    value: Tensor
    monte_carlo: float
    p_loo: float
    reliable: Tensor
    observed: Tensor | None
    names: tuple[Any, ...] | None
    left_out: bool


@dataclass(frozen=True, eq=False)
class Ranking:
    """Fits by what they predict, the best first.

    Attributes:
        table: a row a fit, nats in all: ``elpd`` and its standard error ``se`` by the choice of rows, ``mc_error``
            (Monte Carlo; nan where it is not known), ``p_loo`` (of leave-one-out), ``difference`` to the best and its
            paired standard error ``difference_se`` (Monte Carlo errors included), ``p_worse``, the probability that the
            fit is worse than the best as a normal law of the difference has it, and ``unreliable``, rows not to be
            believed.
        warnings: what stands against taking these numbers at their word.
        num_rows: N.
        left_out: is it leave-one-out, or of rows held out?
    """

    table: pd.DataFrame
    warnings: tuple[str, ...]
    num_rows: int
    left_out: bool

    def to_dataframe(self) -> pd.DataFrame:
        """The table, with the warnings in ``attrs``."""
        frame = self.table.copy()
        if self.warnings:
            frame.attrs["warnings"] = list(self.warnings)
        return frame

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Differences to the best with two standard errors."""
        table = self.table
        return difference_bars(table["difference"], table["difference_se"], names=list(table.index), ax=ax)

    def __repr__(self) -> str:
        table, kind = self.table, "left out in turn" if self.left_out else "held out"
        first, *others = table.index
        sentence = f"of {len(table)} fits {first!r} predicts {self.num_rows} rows {kind} best"
        if others:
            row = table.loc[others[0]]
            error = float(row["difference_se"])
            sure = f"p = {row['p_worse']:.2g} that {others[0]!r} is worse" if math.isfinite(error) else "error unknown"
            sentence += f", by {-float(row['difference']):.2f} ± {error:.2g} nats ({sure})"
        shown = table.to_string(float_format=lambda number: f"{number:.2f}", na_rep="")
        return "\n".join([f"Ranking: {sentence}", shown, *(f"warning: {text}" for text in self.warnings)])


def compare(fits: Mapping[str, Any], data: Any = None, *, check_data: bool = True, **options: Any) -> Ranking:
    r"""Rank fits by the density that they give to rows which they have not seen.

    Rows are left out in turn (:func:`loo`, on the rows of the fits), or were held out: ``log_predictive`` of fits whose
    latents are shared, ``log_evidence`` of fits whose parameters are points. Values of the same rows are paired:

    .. math:: d_n = \log p_A(x_n) - \log p_B(x_n), \quad SE(\sum_n d_n) = \sqrt{N \, var(d_n) + MC_A^2 + MC_B^2}

    Args:
        fits: by name: fits or pairs, of which ``loo`` is taken; or results: ``LeaveOneOut``, ``PredictiveDensity``, or
            ``Evidence`` of each row.
        data: the rows of the fits, for ``loo``; by default those that each has at hand.
        check_data: refuse results whose models observe other values (other rows, another order, unit or transform):
            densities of other data cannot be compared. False where the data are the same but for rounding.
        options: of ``loo``.

    Raises:
        ValueError: fewer than two fits; results of other numbers of rows, or of other data; rows left out beside rows
            held out; an Evidence of all data at once.
        TypeError: what is neither a fit nor a result.

    Aki Vehtari, Andrew Gelman, Jonah Gabry: "Practical Bayesian model evaluation using leave-one-out cross-validation
    and WAIC", 2017.
    Tuomas Sivula, Mans Magnusson, Asael Alonzo Matamoros, Aki Vehtari: "Uncertainty in Bayesian leave-one-out
    cross-validation based model comparison", 2025.
    """
    if not isinstance(fits, Mapping):
        raise TypeError(
            f"{WHO}: fits by name are required, {{'first': fit, 'second': other}}, got {type(fits).__name__}"
        )
    if len(fits) < 2:
        raise ValueError(f"{WHO}: at least two fits by name are required, got {list(fits)}")
    scores = {str(name): _scores(str(name), fit, data, options) for name, fit in fits.items()}
    _require_same_rows(scores, check_data)
    best = max(scores, key=lambda name: _total(scores[name]))
    order = sorted(scores, key=lambda name: (name != best, -_total(scores[name])))
    import pandas as pd

    table = pd.DataFrame([_row(scores[name], scores[best], name == best) for name in order], index=order)
    left_out = scores[best].left_out
    if not left_out:
        table = table.drop(columns="p_loo")
    return Ranking(table, tuple(_warnings(scores, table)), len(scores[best].value), left_out)


def _scores(name: str, fit: Any, data: Any, options: Mapping[str, Any]) -> _Scores:
    if isinstance(fit, Evidence):
        if not fit.value.dim():
            raise ValueError(
                f"{WHO}: {name!r} is log p of all data at once, since they share latents; values of each row are "
                "required: loo(fit), or log_predictive(fit, rows)"
            )
        error = float(fit.standard_error.square().sum().sqrt())
        return _Scores(fit.value, error, math.nan, fit.reliable, None, None, False)
    if isinstance(fit, PredictiveDensity):
        error = fit.mean().standard_error * len(fit.value)
        return _Scores(fit.value, error, math.nan, fit.reliable, fit.observed, fit.names, False)
    if not isinstance(fit, LeaveOneOut):
        fit = loo(fit, data, **options)
    value = fit.pointwise.elpd
    return _Scores(value, fit.standard_error, fit.p_loo, fit.reliable, fit.observed, fit.names, True)


def _require_same_rows(scores: Mapping[str, _Scores], check_data: bool) -> None:
    first, *others = scores
    one = scores[first]
    for name in others:
        other = scores[name]
        if one.left_out != other.left_out:
            raise ValueError(
                f"{WHO}: {first!r} and {name!r} are of rows left out in turn and of rows held out; give loo of both, "
                "or log_predictive (log_evidence for points) of the same held-out rows"
            )
        if len(one.value) != len(other.value):
            raise ValueError(
                f"{WHO}: the same rows are required, got {len(one.value)} of {first!r} and {len(other.value)} of "
                f"{name!r}"
            )
        if not check_data or one.observed is None or other.observed is None:
            continue
        apart = (one.observed != other.observed).nonzero().flatten().tolist()
        if apart:
            raise ValueError(
                f"{WHO}: {first!r} and {name!r} observe other values in {len(apart)} of {len(one.value)} rows (the "
                f"first is row {apart[0]}): densities of other rows, units or transforms of data cannot be compared; "
                "check_data=False if the data are the same but for rounding"
            )


def _total(scores: _Scores) -> float:
    total = float(scores.value.sum())
    return -math.inf if math.isnan(total) else total


def _row(scores: _Scores, best: _Scores, is_best: bool) -> dict[str, float]:
    count = len(scores.value)
    apart = scores.value - best.value
    difference = float(apart.sum())
    error = (
        math.sqrt(count * float(apart.var()) + scores.monte_carlo**2 + best.monte_carlo**2) if count > 1 else math.nan
    )
    worse = NormalDist().cdf(-difference / error) if error > 0 else math.nan
    return {
        "elpd": float(scores.value.sum()),
        "se": math.sqrt(count * float(scores.value.var())) if count > 1 else math.nan,
        "mc_error": scores.monte_carlo,
        "p_loo": scores.p_loo,
        "difference": difference,
        "difference_se": 0.0 if is_best else error,
        "p_worse": math.nan if is_best else worse,
        "unreliable": int((~scores.reliable).sum()),
    }


def _warnings(scores: Mapping[str, _Scores], table: pd.DataFrame) -> list[str]:
    found = []
    for name, row in table.iterrows():
        if row["unreliable"]:
            rows = f"{int(row['unreliable'])} of {len(scores[str(name)].value)} rows"
            found.append(f"{name!r}: {rows} are not to be believed (k-hat, or few draws carry the sum)")
    if any(each.observed is None for each in scores.values()):
        found.append(ON_TRUST)
    count = len(next(iter(scores.values())).value)
    if count < FEWEST_ROWS:
        found.append(f"of {count} rows, fewer than {FEWEST_ROWS}, standard errors and p_worse are rough")
    near = [repr(name) for name, row in table.iloc[1:].iterrows() if abs(row["difference"]) < LEAST_DIFFERENCE]
    if near:
        found.append(
            f"{', '.join(near)} and {table.index[0]!r} lie within {LEAST_DIFFERENCE:g} nats: too near to be told "
            "apart, and the error of such a difference is too small"
        )
    return found
