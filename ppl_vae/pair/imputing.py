"""What stands in the holes of data: entries that were not observed, given those of the same row that were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Rows
from ppl_vae.data.source import whole
from ppl_vae.pair.blocks import MAX_ELEMENTS, numbers_per_datum, slices, takes_single_rows
from ppl_vae.pair.calls import names, parameters_of
from ppl_vae.pair.particles import inward, outward, without_particles
from ppl_vae.pair.sampling import predicted
from ppl_vae.pair.units import shown

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

Values = dict[str, Tensor]

HOW = (
    'data with holes come as {"x": X with any number there, "mask": seen}, seen boolean and True where an entry was '
    "observed, to a model and a guide with an argument `mask` (those of ppl_vae.models have it); an own model scores "
    '`pyro.sample("x", dist.Normal(loc, scale).mask(mask).to_event(1), obs=x)`, or gives its site `obs_mask=`'
)


def impute(pair: Pair, rows: Rows, *, num_samples: int, mean: bool, weighted: bool, seed: int) -> Values:
    """Fill the holes of rows, by site: (N, ...), or draws (S, N, ...); see ``Fit.impute``."""
    if num_samples < 1:
        raise ValueError(f"impute: num_samples must be at least 1, got {num_samples}")
    pair.require_whole_rows(rows)
    whole = pair.has_global_latents or not takes_single_rows(pair, rows)
    some = max(1, MAX_ELEMENTS // (numbers_per_datum(pair, rows) * num_samples))
    parts = []
    for place in slices(len(rows), len(rows) if whole else some):
        noise = fold(seed, "impute", place.start)
        parts.append(_filled(pair, rows.take(place), num_samples, mean, weighted, noise))
    return {name: torch.cat([part[name] for part in parts], 0 if mean else 1) for name in parts[0]}


def _filled(pair: Pair, rows: Rows, count: int, mean: bool, weighted: bool, seed: int) -> Values:
    by_site = unobserved_sites(pair)
    # Weights of latents that all data share are of all rows at once, and one draw would carry them all.
    weighs = weighted and not pair.has_global_latents and not pair.sites.point_masses
    draws = pair.draw(rows, count, seed=seed)
    values = draws.values
    weights = draws.log_weight.softmax(0) if weighs else torch.full((count, len(rows)), 1 / count)
    found = _of_sites(pair, rows, by_site, values, count) if by_site else {}
    if mask := mask_of(pair, rows):
        found |= _under_mask(pair, rows, *mask, values, count, mean, seed)
    return {name: _required(name, _taken(value, weights, mean, weighs, seed)) for name, value in found.items()}


def _taken(filled: Tensor, weights: Tensor, mean: bool, weighs: bool, seed: int) -> Tensor:
    """Of draws (S, N, ...) their weighted mean, or as many drawn anew by the weights of each datum (S, N)."""
    if mean and filled.is_floating_point():
        weights = weights.reshape(*weights.shape, *[1] * (filled.dim() - 2)).to(filled.dtype)
        agreed = filled.amin(0) == filled.amax(0)  # what was seen: kept to the bit
        return torch.where(agreed, filled[0], (weights * filled).sum(0))
    if weighs:
        with isolated_rng(fold(seed, "resample")):
            chosen = torch.multinomial(weights.T, len(filled), replacement=True).T
        filled = filled[chosen, torch.arange(filled.shape[1])]
    return filled.mode(0).values if mean else filled


def _required(name: str, filled: Tensor) -> Tensor:
    if not bool(filled.isfinite().all()):
        row = int((~filled.isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"impute: {name!r} is not finite in row {row}: the model or the guide reads what the mask leaves out; put "
            "a number there by ppl_vae.nn.fill_unobserved(x, mask) before a network or a density sees it"
        )
    return filled


# -- where the holes are ---------------------------------------------------------------------------------------------


def rows_with_holes(pair: Pair, data: Any, mask: Any) -> Rows:
    """The data as rows with a mask, which may stand in them, beside them, or be read off NaN.

    Raises:
        ValueError: the model has no way to hold holes, or it is not said where they are.
    """
    takes = names(pair.model, "mask")
    if not takes and not unobserved_sites(pair):
        raise ValueError(f"impute: the model has no argument `mask`, and no site with `obs_mask=`: {HOW}")
    alone = not isinstance(data, Mapping | tuple | Rows)
    if takes and mask is None and alone:
        mask = ~torch.tensor(np.asarray(data, np.float64)).isnan()
    if mask is not None:
        first = next(iter(parameters_of(pair.model)))
        data = {**(data if isinstance(data, Mapping) else {first: data}), "mask": torch.as_tensor(mask)}
    rows = pair.rows(data)
    rows = whole(rows)
    if not unobserved_sites(pair) and mask_of(pair, rows) is None:
        raise ValueError(f"impute: it is not said which entries were observed: {HOW}")
    return rows


def unobserved_sites(pair: Pair) -> list[str]:
    """The sites that the model gives an ``obs_mask=``, which Pyro makes two of."""
    model = pair.sites.model
    ends = [name.removesuffix("_unobserved") for name in pair.sites.latent if name.endswith("_unobserved")]
    return [name for name in ends if f"{name}_observed" in model]


def mask_of(pair: Pair, rows: Rows) -> tuple[str, Tensor, Tensor] | None:
    """The observed site that the argument ``mask`` is of, its value and the mask, (N, ...) each."""
    mask = rows.kwargs.get("mask")
    if mask is None or not names(pair.model, "mask"):
        return None
    mask = mask.bool().cpu()
    with pair.evaluating(0):
        trace = pair.runner.run_model(rows.batch(), {}, None, ()).model_trace
    seen: dict[str, Tensor] = {}
    for name, site in pair.observed.items():
        if name in trace.nodes and trace.nodes[name]["is_observed"]:
            seen[name] = outward(torch.as_tensor(trace.nodes[name]["value"]), site, pair.layout, False)[0].cpu()
    fitting = [name for name, value in seen.items() if value.shape == mask.shape]
    if len(fitting) != 1:
        shapes = {name: tuple(value.shape) for name, value in seen.items()}
        raise ValueError(
            f"impute: a mask of the shape of one observed site is required, got {tuple(mask.shape)} for {shapes}"
        )
    return fitting[0], seen[fitting[0]], mask


# -- what stands there -----------------------------------------------------------------------------------------------


def _under_mask(
    pair: Pair, rows: Rows, name: str, x: Tensor, mask: Tensor, values: Values, count: int, mean: bool, seed: int
) -> Values:
    """p(x | z) at draws of the latents; entries are independent there, or a mask could not leave some out."""
    found = predicted(pair, rows, pair.as_values(values), count, mean, fold(seed, "predict"))[name]
    x = shown(pair, {name: x.to(found.dtype)})[name]
    return {name: torch.where(mask, x, found)}


def _of_sites(pair: Pair, rows: Rows, sites: list[str], values: Values, count: int) -> Values:
    """The sites with an ``obs_mask=`` as the model puts them together at draws of the latents."""
    batch, given = rows.batch(), pair.as_values(values)

    def read(inner: Values, size: int | None) -> Values:
        trace: Any = pair.runner.run_model(batch, inner, size, ()).model_trace
        return {
            name: outward(
                trace.nodes[name]["value"], pair.sites.model[f"{name}_unobserved"], pair.layout, size is not None
            )
            .detach()
            .cpu()
            for name in sites
        }

    with pair.evaluating(0):
        if pair.vectorizes(batch):
            return read({n: inward(v, pair.sites.model[n], pair.layout) for n, v in given.items()}, count)
        parts = [
            read({n: without_particles(v[s], pair.sites.model[n], pair.layout) for n, v in given.items()}, None)
            for s in range(count)
        ]
    return {name: torch.cat([part[name] for part in parts]) for name in sites}
