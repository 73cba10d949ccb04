"""The posterior of each datum by the guide: draws, and centers of draws, in blocks of rows; the model is not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.blocks import Blocks
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.particles import outward
from ppl_vae.pair.runs import with_particles

if TYPE_CHECKING:
    from ppl_vae.data.rows import Batch
    from ppl_vae.data.source import Source
    from ppl_vae.pair.pair import Pair

__all__ = ["encode", "lines"]

AVERAGED = 256
"""Draws that are averaged where a posterior has no mean in closed form."""

Values = dict[str, Tensor]


def encode(pair: Pair, rows: Source, *, sample: bool, seed: int) -> Values:
    """The center of q(z | x), or a draw of it, by latent site: (N, ...), or one value outside the data plate."""
    count = 1 if sample else AVERAGED
    blocks = Blocks.of(pair, rows, count)
    parts = []
    for first, block in blocks.of_rows(rows):
        batch = block.batch()
        found = {} if sample else _centers(pair, batch, seed)
        missing = [name for name in pair.latents if name not in found]
        if missing:
            noise = ("encode", seed, first)
            draws = [_drawn(pair, batch, size, key) for size, key in blocks.of_draws(count, *noise)]
            found |= {name: _center_of_draws(torch.cat([d[name] for d in draws]), sample) for name in missing}
        parts.append(found)
    return {name: _joined(pair, name, [part[name] for part in parts]) for name in pair.latents}


def _joined(pair: Pair, name: str, parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if pair.latents[name].is_local else parts[0]


def _drawn(pair: Pair, batch: Batch, count: int, seed: int) -> Values:
    """Draws of the guide, (S, N, ...) by latent site."""
    with pair.evaluating(seed):
        if count > 1 and pair.vectorizes(batch):
            return _values(pair, batch, count)
        parts = [_values(pair, batch, None) for _ in range(count)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _values(pair: Pair, batch: Batch, count: int | None) -> Values:
    trace: Any = poutine.trace(with_particles(pair.runner.guide, pair.layout, count)).get_trace(batch)
    return {
        name: outward(trace.nodes[name]["value"], site, pair.layout, count is not None).detach().cpu()
        for name, site in pair.latents.items()
    }


def _centers(pair: Pair, batch: Batch, seed: int) -> Values:
    """The means, or the modes of discrete latents, that are known in closed form: that of the guide's first site."""
    with pair.evaluating(seed):
        sites = dict(sample_sites(poutine.trace(pair.runner.guide).get_trace(batch)))
        if any(site["infer"].get("is_auxiliary") for site in sites.values() if has_density(site)):
            return {}
        first = next(iter(pair.sites.guide), None)
        found = {name: _center(pair, sites[name], name) for name in pair.latents if name == first}
    return {name: value for name, value in found.items() if value is not None}


def _center(pair: Pair, site: Mapping[str, Any], name: str) -> Tensor | None:
    """The mean of a site's distribution, or its mode if it is discrete; None where it has none."""
    latent = pair.latents[name]
    try:
        center = site["fn"].mode if latent.is_discrete else site["fn"].mean
    except NotImplementedError:
        return None
    if not bool(torch.isfinite(center).all()):
        return None
    center = center.expand(site["value"].shape).to(site["value"].dtype)
    return outward(center, latent, pair.layout, False)[0].detach().cpu()


def _center_of_draws(draws: Tensor, sample: bool) -> Tensor:
    """The mean over draws (S, ...), or the most frequent value of whole numbers; of a single draw, itself."""
    if sample:
        return draws[0]
    if not draws.is_floating_point() or bool((draws == draws.round()).all()):
        return draws.mode(0).values
    return draws.double().mean(0).to(draws.dtype)


def lines(start: Any, end: Any, steps: int) -> Tensor:
    """The straight lines between the codes of two sets of N data: (N, steps, ...).

    Raises:
        ValueError: there are several latents, or a discrete one, between whose codes there is no line; unequal sets.
    """
    if steps < 2:
        raise ValueError(f"interpolate: steps must be at least 2, got {steps}")
    if isinstance(start, dict):
        raise ValueError(f"interpolate: one latent site is required, got {sorted(start)}")
    if not start.is_floating_point():
        raise ValueError("interpolate: a continuous latent is required; between two codes there is no line")
    if start.shape != end.shape:
        raise ValueError(f"interpolate: equally many rows are required, got {len(start)} and {len(end)}")
    return torch.stack([torch.lerp(start, end, float(w)) for w in torch.linspace(0, 1, steps)], 1)
