"""Simulation-based calibration of an amortized guide: simulate, infer, rank; nothing is refitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.rows import Rows
from ppl_vae.data.source import whole
from ppl_vae.diagnostics.calibration.quantities import HDR, TARP, Kind, Quantities, Quantity, Scored
from ppl_vae.diagnostics.calibration.ranks import Count
from ppl_vae.diagnostics.calibration.result import Calibration, Ranked
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, resolution_of, slices
from ppl_vae.pair import Fitted, pair_of
from ppl_vae.pair.axis import GlobalLatentError
from ppl_vae.pair.blocks import takes_single_rows
from ppl_vae.pair.row_parameters import row_parameters
from ppl_vae.pair.simulations import Simulations, ToData, in_turn, joint_draws, simulate

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

__all__ = ["calibration", "rows_to_simulate_on"]

WHO = "calibration"


def calibration(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    num_simulations: int = 1000,
    num_samples: int = 199,
    quantities: Mapping[str, Quantity] | None = None,
    to_data: ToData | None = None,
    threshold: float = 0.01,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Calibration:
    r"""Is the amortized guide right on data that the model itself makes? Simulation-based calibration.

    .. math:: z^* \sim p(z), \quad x^* \sim p(x \mid z^*), \quad z_1, \dots, z_L \sim q(z \mid x^*)

    Then z* is an exact posterior draw, and where q is the posterior, the rank of f(z*, x*) among the f(z_l, x*) is
    uniform on 0, ..., L for every f. Asked of the entries of each latent, of log p(x | z), of functions of your own,
    and of two whose ranks are expected coverages: regions of highest density (by log q), and TARP. Ties, as of discrete
    latents, are broken by lot. Every simulated row is a simulation, and nothing is refitted.

    Args:
        pair: a Pair, or a Fit, with latents of each datum alone and a guide that is a function of the datum.
        data: rows as the model is called with; what is not simulated (covariates, masks) is theirs, in turn. By default
            those that the pair was first run on.
        num_simulations: N.
        num_samples: L, draws of the guide for each.
        quantities: further functions by name, of z (S, n, ...) and x (n, ...) to (S, n); dictionaries by site where
            there are several latents, or several observed sites.
        to_data: what the model is called with, from the simulated sites (N, ...) by name and the rows that they were
            simulated on. By default each observed site takes the place of the argument whose value it is.
        threshold: how often an exact guide may be said not to be calibrated.
        seed: of all draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        a :class:`Calibration`; print it, ``to_dataframe()`` or ``plot()`` it.

    Raises:
        GlobalLatentError: latents are shared by all data: these are calibrated by refitting.
        ValueError: the guide is no function of the datum (a posterior for each row), or has no density; the model
            cannot be simulated from (a factor, a flat prior), masks a latent, or draws a subsample of a plate; it
            cannot be told where simulated data belong.

    Sources: see :class:`~ppl_vae.diagnostics.calibration.quantities.Quantities`.
    """
    pair = pair_of(pair)
    if num_simulations < 2 or num_samples < 2:
        raise ValueError(
            f"{WHO}: at least two simulations and two draws are required, got num_simulations={num_simulations} and "
            f"num_samples={num_samples}"
        )
    own = dict(quantities or {})
    rows = rows_to_simulate_on(pair, data)
    _require_amortized(pair)
    _require_any_number(pair, in_turn(rows, num_simulations))
    made = simulate(
        pair, rows, num_simulations, to_data=to_data, seed=fold(seed, WHO, "simulate"), max_elements=max_elements
    )
    others = joint_draws(
        pair, in_turn(rows, num_simulations), seed=fold(seed, WHO, "references"), max_elements=max_elements
    )
    references = {name: others[name].cpu() for name in pair.latents}
    ranked = _ranked(pair, made, Quantities(pair, references, own), num_samples, seed, max_elements)
    missing = (
        {} if _tells_density(pair) else {HDR: "the guide draws auxiliary sites, and log q of a given z is unknown"}
    )
    return Calibration(ranked, threshold, missing)


def rows_to_simulate_on(pair: Pair, data: Any, who: str = WHO) -> Rows:
    """The rows to simulate on, all of them in memory, without row numbers; ``who`` is whose errors they are."""
    if data is None and pair.template is None:
        raise ValueError(f"{who}: rows such as the model is called with are required; this pair has not seen any")
    source = pair.rows(data) if data is not None else pair.template
    pair.initialize(source)
    assert source is not None
    if not len(source):
        raise ValueError(f"{who}: a model of rows is required, and this pair has no data")
    return replace(whole(source), index=None, numbers=None)


def _require_amortized(pair: Pair) -> None:
    """Raise ValueError unless q(z | x) of one datum is had by calling the guide with it."""
    try:
        pair.sites.require_local(WHO)
    except GlobalLatentError as error:
        raise GlobalLatentError(
            f"{error}; simulate whole data sets and refit each of them (diagnostics.variational_calibration)"
        ) from None
    if not pair.latents:
        raise ValueError(f"{WHO}: latents in the guide are required, and this pair has none")
    if pair.sites.counts_volume:
        raise ValueError(
            f"{WHO}: a p(x | z) with a spread is required, but this one is a point mass (a flow's decoder): its z is "
            "calculated, and there is no posterior to be drawn from; log_evidence says whether the flow is exact"
        )
    pair.sites.require_density(WHO)
    pair.sites.require_proper(WHO)
    pair.sites.require_whole_plates(WHO)
    masked = [name for name, site in pair.latents.items() if site.is_masked]
    if masked:
        raise ValueError(
            f"{WHO}: latents that every row has are required, and a mask takes {', '.join(map(repr, masked))} away in "
            "some; give rows that have all of them"
        )
    if pair.layout.axis is not None and pair.layout.axis.subsampled:
        raise ValueError(f"{WHO}: whole rows are required, but the plate {pair.data_plate!r} draws a subsample")
    found = [repr(name) for name in row_parameters(pair, len(pair.template or ()))]
    if found or pair.takes("index"):
        whose = f" ({', '.join(found)} has an entry for each row)" if found else " (a signature names index)"
        raise ValueError(
            f"{WHO}: a guide that is a function of the datum is required, but {type(pair.guide).__name__} keeps a "
            f"posterior for each row of the fit{whose}; simulated rows have none. Fit an amortized guide "
            "(guides.AmortizedNormal), or simulate data sets and refit each of them"
        )


def _require_any_number(pair: Pair, rows: Rows) -> None:
    """Raise ValueError unless the pair runs on other numbers of rows than it knows."""
    if takes_single_rows(pair, rows):
        return
    guide = pair.guide
    why = f"its plate {pair.data_plate!r} has a fixed size; make it as long as the data"
    if isinstance(guide, AutoGuide):
        why = f"{type(guide).__name__} keeps a posterior for each row of the fit; take an amortized guide"
    raise ValueError(
        f"{WHO}: a pair that runs on any number of rows is required, and this one does not run on two of them: {why}"
    )


def _tells_density(pair: Pair) -> bool:
    """Can the guide score a z from elsewhere?"""
    return set(pair.sites.guide) <= set(pair.latents)


def _ranked(
    pair: Pair, made: Simulations, quantities: Quantities, num_samples: int, seed: int, max_elements: int
) -> dict[str, Ranked]:
    """The ranks of all quantities, rows by rows, draws by draws, so that none need be kept."""
    plan = Plan.of(pair, made.rows, num_samples, max_elements)
    parts: dict[str, list[Tensor]] = {}
    kinds: dict[str, Kind] = {}
    for place, chunk in plan.row_chunks(made.rows):
        rows = replace(chunk, index=None)
        x = {name: value[place] for name, value in made.observed.items()}
        truth = _truth(pair, rows, {name: value[place] for name, value in made.latents.items()}, x)
        counts: dict[str, Count] = {}
        for label, kind, value in quantities.of(truth, place):
            if label in counts:
                raise ValueError(f"{WHO}: quantities[{label!r}] has the name of what is ranked anyway; give it another")
            kinds[label] = kind
            counts[label] = Count(label, value, 0.0 if kind == "latent" or label == TARP else resolution_of(pair))
        for block in slices(num_samples, plan.draws):
            noise = fold(seed, WHO, "draw", place.start, block.start)
            drawn = pair.draw(rows, block.stop - block.start, seed=noise)
            log_q = drawn.log_q.total if _tells_density(pair) else None
            for label, _, value in quantities.of(Scored(drawn.values, drawn.log_p, log_q, x), place):
                counts[label].add(value)
        for label, count in counts.items():
            parts.setdefault(label, []).append(count.ranks(fold(seed, WHO, "ties", place.start)))
    return {label: Ranked(kinds[label], torch.cat(found), num_samples) for label, found in parts.items()}


def _truth(pair: Pair, rows: Rows, latents: Mapping[str, Tensor], x: Mapping[str, Tensor]) -> Scored:
    """The latents that made the data, scored as a draw."""
    values = {name: value.unsqueeze(0) for name, value in latents.items()}
    log_q = pair.log_guide(rows, values).total if _tells_density(pair) else None
    return Scored(values, pair.log_joint(rows, values), log_q, x)
