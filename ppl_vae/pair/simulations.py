"""Data simulated by the model, with the latents that made them, as rows that the pair can be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.rows import Rows
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.blocks import numbers_per_datum, slices
from ppl_vae.pair.calls import parameters_of
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.particles import outward
from ppl_vae.pair.sampling import forward

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

__all__ = [
    "Simulations",
    "ToData",
    "as_data",
    "in_turn",
    "joint_draw",
    "joint_draws",
    "observed_values",
    "seen_entries",
    "simulate",
]

ToData = Callable[[Mapping[str, Tensor], Rows], Any]
"""From simulated observed sites (N, ...) and the rows that they were simulated on to what the model is called with."""


@dataclass(frozen=True)
class Simulations:
    """N exact draws of the joint distribution; each z* is an exact posterior draw given its x*.

    Attributes:
        rows: x*, with all else that the model looks at.
        latents: z*, (N, ...) by site.
        observed: x* by site, (N, ...).
    """

    rows: Rows
    latents: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]


def simulate(
    pair: Pair, rows: Rows, num_simulations: int, *, to_data: ToData | None, seed: int, max_elements: int
) -> Simulations:
    """Simulate z* ~ p(z), x* ~ p(x | z*), all rows of a block in one run.

    Args:
        pair: whose model simulates.
        rows: what else the model looks at (covariates, masks) is theirs, in turn.
        num_simulations: N.
        to_data: how x* becomes data; by default each observed site takes the place of the argument that is its value.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle.

    Raises:
        ValueError: the density has a factor, which nothing can be drawn from; or it cannot be told which argument is
            an observed site's, or the model makes something else of what it is given.
    """
    given = in_turn(rows, num_simulations)
    drawn = joint_draws(pair, given, seed=seed, max_elements=max_elements)
    latents = {name: drawn[name].cpu() for name in pair.latents}
    observed = {name: drawn[name] for name in pair.observed}
    made = as_data(pair, given, observed, to_data)
    return Simulations(made, latents, {name: value.cpu() for name, value in observed.items()})


def in_turn(rows: Rows, count: int) -> Rows:
    """So many rows: these, again and again."""
    device = next((column.device for column in (*rows.args, *rows.kwargs.values())), None)
    return rows.take(torch.arange(count, device=device) % len(rows))


def joint_draws(pair: Pair, rows: Rows, *, seed: int, max_elements: int) -> dict[str, Tensor]:
    """A draw of p(z, x) for each of some rows, (N, ...) by site, on the device; all rows of a block in one run."""
    if pair.has_global_latents:
        return joint_draw(pair, rows, fold(seed, 0))
    size = max(1, max_elements // numbers_per_datum(pair, rows))
    parts = [joint_draw(pair, rows.take(place), fold(seed, place.start)) for place in slices(len(rows), size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def joint_draw(pair: Pair, rows: Rows, seed: int) -> dict[str, Tensor]:
    """A draw of p(z, x) of these rows in one run: (N, ...) by site, of a site that all data share one value."""
    with pair.evaluating(seed):
        trace = forward(pair, rows.batch(), {}, None)
    factors = [name for name, site in sample_sites(trace) if site["is_observed"] and has_density(site)]
    if factors:
        raise ValueError(
            f"simulate: data simulated by the model are required, and {', '.join(map(repr, factors))} is a factor "
            "(pyro.factor), from which nothing can be drawn; write it as a distribution of what it stands for"
        )
    return {name: _value(pair, trace, name) for name in [*pair.latents, *pair.observed] if name in trace.nodes}


def _value(pair: Pair, trace: Any, name: str) -> Tensor:
    """The value of a site of a run, (N, ...), on the device."""
    return outward(trace.nodes[name]["value"], pair.sites.model[name], pair.layout, False)[0].detach()


def observed_values(pair: Pair, rows: Rows) -> dict[str, Tensor]:
    """What the model observes in these rows, (N, ...) by site."""
    with pair.evaluating(0):
        trace = pair.runner.run_model(rows.batch(), {}, None, ()).model_trace
    absent = [name for name in pair.observed if not trace.nodes.get(name, {}).get("is_observed", False)]
    if absent:
        raise ValueError(
            f"simulate: rows with all that the model observes are required, and these lack {sorted(absent)}"
        )
    return {name: _value(pair, trace, name) for name in pair.observed}


# -- as data ---------------------------------------------------------------------------------------------------------


def as_data(pair: Pair, rows: Rows, observed: Mapping[str, Tensor], to_data: ToData | None) -> Rows:
    """Rows with what was simulated in place of what they held; see :func:`simulate`."""
    if to_data is None:
        made = _put(rows, observed, _places(pair, rows))
    else:
        made = Rows.of(to_data(observed, rows), name="to_data").to(device=pair.device, dtype=pair.dtype)
        if len(made) != len(rows):
            raise ValueError(f"simulate: to_data must give {len(rows)} rows, got {len(made)}")
    _require_observed(pair, made, observed)
    return made


# -- which argument is an observed site's ----------------------------------------------------------------------------


def _places(pair: Pair, rows: Rows) -> dict[str, int | str]:
    """The argument that is the value of each observed site: found by comparing them, not by names.

    Where several hold the same numbers, the one that is called as the site.
    """
    few = rows.take(slice(0, 256))
    columns: list[tuple[int | str, Tensor]] = [*enumerate(few.args), *few.kwargs.items()]
    names = list(parameters_of(pair.model))
    found = {}
    for site, value in observed_values(pair, few).items():
        same = [place for place, column in columns if _is_same(column, value, few)]
        named = [p for p in same if p == site or (isinstance(p, int) and p < len(names) and names[p] == site)]
        if len(chosen := same if len(same) == 1 else named) != 1:
            what = f"{len(same)} arguments have its values" if same else "no argument has its values as they are"
            raise ValueError(
                f"simulate: simulated data must be put where the data were, and of the observed site {site!r} "
                f"{what}; say it as to_data=lambda values, rows: ..., which gets the simulated sites, (N, ...) by "
                "name, and returns what the model is called with"
            )
        found[site] = chosen[0]
    return found


def _is_same(column: Tensor, value: Tensor, rows: Rows) -> bool:
    """Is a column what a site has observed, as far as it is there?"""
    if column.shape != value.shape:
        return False
    return bool(((column == value) | ~seen_entries(column, rows)).all())


def seen_entries(column: Tensor, rows: Rows) -> Tensor:
    """Where an entry of a column is data: not where it is NaN, or the mask of the rows takes it out."""
    seen = column == column
    mask = rows.kwargs.get("mask")
    return seen & mask.bool() if mask is not None and mask.shape == column.shape else seen


def _put(rows: Rows, values: Mapping[str, Tensor], places: Mapping[str, int | str]) -> Rows:
    """Rows with simulated values in place of those that they held; without row numbers, for these are new data."""
    args, kwargs = list(rows.args), dict(rows.kwargs)
    for site, place in places.items():
        held: Any = args if isinstance(place, int) else kwargs
        held[place] = values[site].to(held[place].dtype)
    return Rows(tuple(args), kwargs)


def _require_observed(pair: Pair, rows: Rows, values: Mapping[str, Tensor]) -> None:
    """Looked at, not believed: given the simulated rows, does the model observe what was simulated?"""
    few = rows.take(slice(0, 256)) if len(rows) > 256 else rows
    few = Rows(few.args, few.kwargs)
    for site, seen in observed_values(pair, few).items():
        wanted = values[site][: len(few)].to(seen)
        # What to_data undoes may come back with a rounding.
        if seen.shape != wanted.shape or not bool((torch.isclose(seen, wanted) | ~seen_entries(seen, few)).all()):
            raise ValueError(
                f"simulate: given simulated rows, the model observes something else at {site!r} than was simulated; "
                "say with to_data= how its arguments follow from what was simulated"
            )
