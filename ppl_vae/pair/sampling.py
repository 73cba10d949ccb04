"""New data from a model: simulated with their latents, or drawn anew at given ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Categorical

from ppl_vae._random import fold
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.distributions import unwrap
from ppl_vae.pair.blocks import MAX_ELEMENTS, Blocks, numbers_per_datum, slices
from ppl_vae.pair.calls import names
from ppl_vae.pair.handlers import Forget, Substitute
from ppl_vae.pair.particles import inward, outward, without_particles
from ppl_vae.pair.responsibilities import draw_of
from ppl_vae.pair.runs import with_particles
from ppl_vae.pair.units import shown

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair.pair import Pair


def simulated(pair: Pair, n: int, latents: Mapping[str, Tensor], mean: bool, seed: int) -> dict[str, Tensor]:
    """Latents and data of n rows, (n, ...) by site; what stands outside the data plate is drawn once for all."""
    pair.sites.require_proper("simulate", latents)
    rows = pair.template if pair.template is not None else Rows()
    size = max(1, MAX_ELEMENTS // numbers_per_datum(pair, rows))
    cut = size < n and pair.layout.axis is not None and _makes_any_number(pair)
    parts: list[dict[str, Tensor]] = []
    held: dict[str, Tensor] = {}
    for place in slices(n, size if cut else n):
        inner = {k: v[place] if pair.sites.model[k].is_local else v for k, v in latents.items()} | held
        with pair.evaluating(fold(seed, "simulate", place.start)):
            parts.append(_simulated(pair, place.stop - place.start, inner, mean))
        held = {k: v.to(pair.device) for k, v in parts[0].items() if k in pair.sites.latent and _is_shared(pair, k)}
    return {
        name: value if _is_shared(pair, name) else torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
    }


def _is_shared(pair: Pair, name: str) -> bool:
    return not pair.sites.model[name].is_local


def _makes_any_number(pair: Pair) -> bool:
    """Does the model make as many rows as it is asked for, or as it is given?"""
    return names(pair.model, "num_samples") or (pair.template is not None and len(pair.template) > 0)


def _simulated(pair: Pair, n: int, latents: Mapping[str, Tensor], mean: bool) -> dict[str, Tensor]:
    sites = pair.sites
    inner = {k: without_particles(v, sites.model[k], sites.layout) for k, v in latents.items()}
    trace = forward(pair, _rows_for(pair, n), inner, None, num_samples=n)
    found = read(pair, trace, [*sites.latent, *sites.observed], None, mean)
    return {name: value[0] for name, value in found.items()}


def predicted(
    pair: Pair,
    rows: Source,
    given: Mapping[str, Tensor],
    size: int,
    mean: bool,
    seed: int,
    *,
    given_data: bool = True,
) -> dict[str, Tensor]:
    """The observed sites at S given values of the latents, (S, N, ...) by site.

    Latents that the model sums out are drawn given the data of the rows too, unless ``given_data`` is False.
    """
    blocks = Blocks.of(pair, rows, size)
    columns = []
    start = 0
    for first, block in blocks.of_rows(rows):
        place = slice(start, start + len(block))
        start = place.stop
        batch = block.batch()
        parts, done = [], 0
        for count, noise in blocks.of_draws(size, "predict", seed, first):
            some = {k: v[done : done + count] for k, v in given.items()}
            if blocks.rows is not None:
                some = {k: v[:, place] if pair.sites.model[k].is_local else v for k, v in some.items()}
            done += count
            with pair.evaluating(noise):
                parts.append(_predicted_at(pair, batch, some, count, mean, given_data))
        columns.append({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return {
        name: value if _is_shared(pair, name) else torch.cat([column[name] for column in columns], 1)
        for name, value in columns[0].items()
    }


def _predicted_at(
    pair: Pair, batch: Batch, given: Mapping[str, Tensor], size: int, mean: bool, given_data: bool
) -> dict[str, Tensor]:
    sites = pair.sites
    if pair.vectorizes(batch):
        inner = {n: inward(v, sites.model[n], sites.layout) for n, v in given.items()}
        return _predicted(pair, batch, inner, size, mean, given_data)
    parts = []
    for s in range(size):
        inner = {n: without_particles(v[s], sites.model[n], sites.layout) for n, v in given.items()}
        parts.append(_predicted(pair, batch, inner, None, mean, given_data))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _predicted(
    pair: Pair, batch: Batch, inner: dict[str, Tensor], count: int | None, mean: bool, given_data: bool
) -> dict[str, Tensor]:
    inner = inner | (_draw_summed(pair, batch, inner, count) if given_data else {})
    return read(pair, forward(pair, batch, inner, count), list(pair.sites.observed), count, mean)


def _rows_for(pair: Pair, n: int) -> Batch | None:
    """Rows on which a model that looks at its data can make n; None for one that is told how many."""
    if names(pair.model, "num_samples"):
        return None
    template = pair.template
    if template is None or not len(template):
        return Batch()
    return template.take(torch.arange(n, device=pair.device) % len(template)).batch()


def forward(
    pair: Pair, batch: Batch | None, values: Mapping[str, Tensor], count: int | None, num_samples: int = 0
) -> Trace:
    """A trace of the model with its observed sites sampled anew."""
    fn: Callable[..., Any] = pair.runner.model
    if batch is None:
        fn, batch = (lambda _: pair.model(num_samples=num_samples)), Batch()
    fn = Substitute(values)(Forget()(with_particles(fn, pair.layout, count)))
    return poutine.trace(fn).get_trace(batch)


def read(pair: Pair, trace: Any, wanted: list[str], count: int | None, mean: bool) -> dict[str, Tensor]:
    """The wanted sites of a run, (S, N, ...) by site, detached on the CPU; of observed ones the mean, if asked for.

    Data are in the units that they are shown in.
    """

    def value(name: str) -> Tensor:
        site = trace.nodes[name]
        kept = center(site["fn"]) if mean and name in pair.sites.observed else site["value"]
        return outward(kept, pair.sites.model[name], pair.layout, count is not None).detach().cpu()

    found = {name: value(name) for name in wanted if name in trace.nodes}  # some are there only with their data
    return shown(pair, found)


def _draw_summed(pair: Pair, batch: Batch, values: Mapping[str, Tensor], count: int | None) -> dict[str, Tensor]:
    """A joint draw of the latents that the model sums out, given x and the others."""
    return draw_of(pair.runner.run_model(batch, values, count)) if pair.summed else {}


def center(fn: Any) -> Tensor:
    """The mean of a distribution; of classes, which have none, the mode."""
    inner = unwrap(fn)  # a mask has a mean, but no mode
    found: Tensor = inner.mode if isinstance(inner, Categorical) else fn.mean
    return found
