"""The surgery of single latent dimensions: what each tells of its datum, and what its marginal is off the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.diagnostics.aggregate import Scores, block_sizes, log_mean_over_rows
from ppl_vae.diagnostics.marginals import marginal
from ppl_vae.evidence.chunks import Plan
from ppl_vae.pair.particles import inward, outward

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair, Site

__all__ = ["by_dimension"]


def by_dimension(
    pair: Pair, rows: Source, values: Mapping[str, Tensor], *, few: Rows, max_elements: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mutual information and marginal KL of each dimension, in the shape of a value of its site, nats, float64.

    Sites are left out whose law, or whose prior, hangs on other latents or has no marginals in closed form: what a
    dimension of theirs costs is no number of its own.

    Args:
        pair: a pair whose aggregate posterior can be had.
        rows: N data.
        values: S draws of the guide for each, (S, N, ...) by site.
        few: some of the rows, on which laws are compared.
        max_elements: how many numbers one block of scores may hold.
    """
    found = {}
    for name, site in pair.latents.items():
        if _stands_alone(pair, few, name):
            found[name] = _of_site(pair, rows, site, values[name], max_elements)
    return found


def _of_site(pair: Pair, rows: Source, site: Site, value: Tensor, max_elements: int) -> tuple[Tensor, Tensor]:
    device = pair.device

    def prepare(some: Rows) -> Scores:
        q, _ = _laws(pair, some, site.name, 0)
        return lambda draws: _log_prob(pair, q, draws[site.name].unsqueeze(1).to(device), site)

    draws = value.flatten(0, 1)
    log_aggregate = log_mean_over_rows(prepare, rows, {site.name: draws}, block_sizes(pair, rows, max_elements))
    log_aggregate = log_aggregate.unflatten(0, value.shape[:2])
    own, prior = [], []
    for place, chunk in Plan.of(pair, rows, len(value), max_elements).row_chunks(rows):
        q, p = _laws(pair, chunk, site.name, 0)
        part = value[:, place].to(device)
        own.append(_log_prob(pair, q, part, site))
        prior.append(_log_prob(pair, p, part, site))
    log_q, log_p = torch.cat(own, 1), torch.cat(prior, 1)
    return (log_q - log_aggregate).mean((0, 1)), (log_aggregate - log_p).mean((0, 1))


def _laws(pair: Pair, rows: Rows, name: str, seed: int) -> tuple[Distribution, Distribution]:
    """The marginals of a site in a run of guide and model, in Pyro's shape.

    Raises:
        TypeError, KeyError: they are not known.
    """
    with pair.evaluating(fold(seed, "by_dimension")):
        run = pair.run(rows.batch())
    fns: list[Any] = [trace.nodes[name]["fn"] for trace in (run.guide_trace, run.model_trace)]
    return marginal(fns[0]), marginal(fns[1])


def _log_prob(pair: Pair, law: Distribution, value: Tensor, site: Site) -> Tensor:
    """Entry by entry, (T, n, ...) float64 on the CPU, of values (T, n, ...) or (T, 1, ...)."""
    with torch.no_grad():
        found: Tensor = law.log_prob(inward(value, site, pair.layout))
    return outward(found, site, pair.layout, particles=True).double().cpu()


def _stands_alone(pair: Pair, rows: Rows, name: str) -> bool:
    """Has a site marginals that are the same whatever the other latents are, in the guide and in the model?"""
    try:
        one, other = (_laws(pair, rows, name, seed) for seed in (0, 1))
        with pair.evaluating(0):
            run = pair.run(rows.batch())
            if run.score_model()[name].absorbed:
                return False
        value: Any = run.guide_trace.nodes[name]["value"]
        return all(torch.equal(a.log_prob(value), b.log_prob(value)) for a, b in zip(one, other, strict=True))
    except (KeyError, TypeError):
        return False
