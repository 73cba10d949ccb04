"""Draw data anew, and ask of them what is asked of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.source import whole
from ppl_vae.diagnostics.predictive_check.result import PredictiveCheck
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, slices
from ppl_vae.evidence.shared_draws import require_observed, rows_of_fit
from ppl_vae.pair import pair_of
from ppl_vae.pair.predictive import posterior_predictive, shared_draws
from ppl_vae.pair.sampling import predicted
from ppl_vae.pair.simulations import observed_values, seen_entries
from ppl_vae.pair.units import shown

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Kind", "Quantity", "predictive_check"]

WHO = "predictive_check"
Kind = Literal["posterior", "mixed", "prior"]
Quantity = Callable[[Any], Any]
"""T: from one data set, (N, ...), or several observed sites (N, ...) by name, to a number."""
KEPT = 50
"""So many replicated data sets are kept, for figures of the data themselves."""


def predictive_check(
    pair: Pair | Fitted,
    data: Any = None,
    quantities: Mapping[str, Quantity] | None = None,
    *,
    kind: Kind = "posterior",
    num_samples: int = 1000,
    threshold: float = 0.05,
    fitted_to: Any = None,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> PredictiveCheck:
    r"""Does the model make data like these? T of replicated data sets beside T of the data.

    .. math:: p = P(T(x^{rep}) > T(x)) + \tfrac{1}{2} P(T(x^{rep}) = T(x))

    By kind, a replicated data set is made from

    - "posterior": latents drawn from the guide; a row's own ones given that very row (Gelman, Meng and Stern 1996);
    - "mixed": latents that all data share drawn from the guide, a row's own ones from the model, as new rows have them;
    - "prior": all latents drawn from the model (Box 1980).

    **A posterior predictive p-value is not uniform**: latents that have seen the data make data like them, so it
    crowds around 1/2 where the model is right, and finds less than it seems to (Bayarri and Berger 2000). Rows held
    out of the fit, with kind "mixed", do without this. Each replicate is of as many rows as the data, with their
    covariates.

    Args:
        pair: a Pair, or a Fit.
        data: N rows with all that the model observes; by default those of the fit.
        quantities: by name, T of one data set: of x (N, ...), a tensor in the units of the data, or of a dictionary by
            observed site where there are several, to a number: ``{"max": torch.max}``. Choose what the model has not
            fitted anyway: the mean of x says little where a parameter is its mean. Entries that were not observed are
            in replicated data what they are in the data.
        kind: see above.
        num_samples: S, replicated data sets; made some at a time, so that memory is bounded.
        threshold: how often a p-value of each quantity together may be called extreme, at uniform p-values.
        fitted_to: the rows of the fit, where they are not ``data`` and not at hand, and the posterior hangs on them.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        a :class:`PredictiveCheck`; print it, ``to_dataframe()`` or ``plot()`` it.

    Raises:
        ValueError: no quantity, or one that gives no finite number; an unknown kind; rows without what the model
            observes, or none at hand; a flat prior, of which nothing can be drawn; see ``posterior_predictive`` too.

    George Box: "Sampling and Bayes' inference in scientific modelling and robustness", 1980. Andrew Gelman, Xiao-Li
    Meng, Hal Stern: "Posterior predictive assessment of model fitness via realized discrepancies", 1996. M. J. Bayarri,
    James Berger: "P values for composite null models", 2000.
    """
    if kind not in ("posterior", "mixed", "prior"):
        raise ValueError(f"{WHO}: kind must be 'posterior', 'mixed' or 'prior', got {kind!r}")
    if num_samples < 1:
        raise ValueError(f"{WHO}: at least one replicated data set is required, got num_samples={num_samples}")
    asked = dict(quantities or {})
    if not asked:
        raise ValueError(f"{WHO}: quantities are required, functions of one data set: {{'max': torch.max}}; got none")
    fitted, pair = pair, pair_of(pair)
    source = rows_of_fit(fitted, data, who=WHO, argument="data")
    pair.initialize(source)
    pair.require_whole_rows(source)
    require_observed(pair, source, WHO)
    rows, known = whole(source), _known(fitted, pair, fitted_to)

    truth = {name: value.cpu() for name, value in observed_values(pair, rows).items()}
    truth = shown(pair, truth)
    observed = _asked(asked, truth, "the data")
    found, kept = [], []
    for place in slices(num_samples, Plan.of(pair, rows, num_samples, max_elements).draws):
        count = place.stop - place.start
        made = _replicated(pair, rows, known, kind, count, fold(seed, WHO, kind, place.start))
        made = {name: _with_gaps(value, truth[name], rows) for name, value in made.items() if name in truth}
        for number in range(count):
            found.append(_asked(asked, {name: value[number] for name, value in made.items()}, "replicated data"))
        if place.start < KEPT:
            kept.append({name: value[: KEPT - place.start] for name, value in made.items()})
    replicates = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
    of_theta = sum(leaf.numel() for leaf in pair.parameters.of("theta", "shared").values())
    return PredictiveCheck(
        tuple(asked),
        torch.stack(found),
        observed,
        kind,
        truth,
        replicates,
        num_rows=len(rows),
        seen=True if data is None else _share_of(rows, known),
        conditioned=kind == "posterior" and any(site.is_local for site in pair.latents.values()),
        fitted=kind != "prior" or of_theta > 0,
        threshold=threshold,
    )


def _known(fitted: Pair | Fitted, pair: Pair, fitted_to: Any) -> Source | None:
    """The rows of the fit, as far as they are given or at hand."""
    if fitted_to is not None:
        return pair.rows(fitted_to)
    of_fit = getattr(fitted, "rows_of_fit", None)
    if of_fit is not None:
        found = of_fit()
        return None if found is None else pair.rows(found)
    return pair.template if pair.template is not None and len(pair.template) == pair.num_rows else None


def _replicated(pair: Pair, rows: Rows, known: Source | None, kind: Kind, count: int, seed: int) -> dict[str, Tensor]:
    """Replicated data, (S, N, ...) by observed site, in the units of the data."""
    if kind == "posterior":
        return posterior_predictive(pair, rows, known, num_samples=count, mean=False, seed=seed)
    given: dict[str, Tensor] = {}
    if kind == "mixed":
        given = pair.as_values(shared_draws(pair, known, count, seed=fold(seed, "shared"), who=WHO))
    pair.sites.require_proper(WHO, given)
    return predicted(pair, rows, given, count, False, seed, given_data=False)


def _with_gaps(made: Tensor, truth: Tensor, rows: Rows) -> Tensor:
    """Replicated data with the data's own entries where these were not observed: they tell nothing of the model."""
    return torch.where(seen_entries(truth, rows.to(device="cpu")), made, truth.to(made))


def _asked(quantities: Mapping[str, Quantity], data: Mapping[str, Tensor], whose: str) -> Tensor:
    """The quantities of one data set, (Q,), float64."""
    values = []
    for name, quantity in quantities.items():
        given = quantity(next(iter(data.values())) if len(data) == 1 else dict(data))
        try:
            number = float(given)
        except (TypeError, ValueError, RuntimeError):
            what = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
            raise ValueError(
                f"{WHO}: a quantity must give one number for a data set, and quantities[{name!r}] gave {what} for "
                f"{whose}"
            ) from None
        if not math.isfinite(number):
            raise ValueError(
                f"{WHO}: a quantity must give a finite number, and quantities[{name!r}] gave {number} for {whose}"
            )
        values.append(number)
    return torch.tensor(values, dtype=torch.float64)


def _share_of(rows: Rows, known: Source | None) -> bool | None:
    """Is most of the rows among those of the fit? None where these are not at hand."""
    if known is None or not len(known) or not len(rows):
        return None
    seen = set(_digests(whole(known)))
    return sum(digest in seen for digest in _digests(rows)) > len(rows) / 2


def _digests(rows: Rows) -> list[bytes]:
    """What each row holds, all columns together."""
    columns = (*rows.args, *rows.kwargs.values())
    tables = [column.detach().cpu().double().reshape(len(rows), -1) for column in columns]
    return [row.tobytes() for row in torch.cat(tables, 1).numpy()]
