"""Draws and their densities, site by site and datum by datum; see the methods of ``Pair``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.draws import Draws, LogProb
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.handlers import Constrain, Substitute, has_density
from ppl_vae.pair.masks import as_in_model
from ppl_vae.pair.particles import inward, of_unconstrained, outward, without_particles
from ppl_vae.pair.runs import with_particles
from ppl_vae.pair.scores import GuideScore
from ppl_vae.pair.support import unconstrained

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

Values = Mapping[str, Tensor]


def log_prob(pair: Pair, scores: Mapping[str, Any]) -> LogProb:
    """Detached densities of the scores of a run."""
    return LogProb.of(scores, joint=pair.has_global_latents)


def values_of(pair: Pair, run: Execution) -> dict[str, Tensor]:
    """The latents of a run, (S, N, ...) by site."""
    particles = run.num_particles is not None
    return {
        name: outward(_value(run.model_trace, name), site, pair.layout, particles).detach().cpu()
        for name, site in pair.latents.items()
    }


def draws_of(pair: Pair, run: Execution) -> Draws:
    """The latents of a run, scored."""
    model, guide = _all_scores(pair, run)
    return Draws(values_of(pair, run), log_prob(pair, model), log_prob(pair, guide))


def weighted_bound(pair: Pair, run: Execution) -> Tensor:
    """Log p - log q of a run, each site times its weight (``poutine.scale``): (S, N) or (S,)."""
    parts = [LogProb.of(s, joint=pair.has_global_latents, weighted=True) for s in _all_scores(pair, run)]
    return parts[0].total - parts[1].total


def weighted_sites(*scores: Mapping[str, Any]) -> tuple[str, ...]:
    """The sites, of model or guide, that bear a weight."""
    return tuple(dict.fromkeys(name for side in scores for name, score in side.items() if score.weighted))


def _all_scores(pair: Pair, run: Execution) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    model, guide = run.score_model(), run.score_guide()
    pair.runner.weighted = weighted_sites(model, guide)
    named = {*guide, *pair.sites.summed}
    forgotten = [name for name, score in model.items() if not score.observed and name not in named]
    if forgotten:
        raise ValueError(
            f"Pair: {', '.join(map(repr, forgotten))} of the model was neither observed nor drawn by the guide, so "
            "draws cannot be weighed; give all data that the model observes, and a guide for every latent site"
        )
    return model, guide


def draws_of_prior(pair: Pair, run: Execution) -> Draws:
    """The latents of a run of the model alone, weighed by its prior."""
    draws = draws_of(pair, run)
    prior = {name: score for name, score in run.score_model().items() if not score.observed}
    return Draws(draws.values, draws.log_p, log_prob(pair, prior))


def prior_runs(pair: Pair, batch: Batch, num_samples: int) -> list[Execution]:
    """Runs of the model alone, whose latents are drawn from it; ValueError for a prior that has no draws."""
    pair.sites.require_proper("draw_prior")
    vectorized = num_samples > 1 and pair.vectorizes(batch)
    counts = [num_samples] if vectorized else [None] * num_samples
    return [pair.runner.run_model(batch, {}, count, ()) for count in counts]


def scored(pair: Pair, batch: Batch, given: Values, score: Callable[[Values, int | None], LogProb]) -> LogProb:
    """What ``score`` says of S given values: of all at once where the pair vectorizes, else of one after the other."""
    sites = {**pair.sites.model, **pair.sites.guide}
    size = len(next(iter(given.values())))
    if pair.vectorizes(batch):
        return score({n: inward(v, sites[n], pair.layout) for n, v in given.items()}, size)
    parts = [
        score({n: without_particles(v[s], sites[n], pair.layout) for n, v in given.items()}, None) for s in range(size)
    ]
    return LogProb.stack(parts)


def score_model(pair: Pair, batch: Batch, given: Values, count: int | None) -> LogProb:
    """Log p at given latents."""
    return log_prob(pair, pair.runner.run_model(batch, given, count).score_model())


def score_guide(pair: Pair, batch: Batch, given: Values, count: int | None) -> LogProb:
    """Log q at given values of every site of the guide."""
    fn = Substitute(given)(with_particles(pair.runner.guide, pair.layout, count))
    trace = poutine.trace(fn).get_trace(batch)
    sites = {**pair.sites.model, **pair.sites.guide}.values()
    if pair.sites.feeds or any(site.is_masked for site in sites):  # the model says what of a latent is there
        latents = {name: value for name, value in given.items() if name in pair.latents}
        model_trace = pair.runner.run_model(batch, latents, count, ()).model_trace
        trace = as_in_model(trace, model_trace, pair.sites.feeds)
    scores = {
        name: GuideScore(name, site, pair.layout, count is not None)
        for name, site in sample_sites(trace)
        if has_density(site)
    }
    return log_prob(pair, scores)


def unconstrain(pair: Pair, batch: Batch, given: Values) -> tuple[dict[str, Tensor], Tensor]:
    """Latents as unconstrained u by site, and log |dz/du|."""
    found: dict[str, list[Tensor]] = {name: [] for name in pair.latents}

    def volume(inner: Values, count: int | None) -> LogProb:
        trace = pair.runner.run_model(batch, inner, count, ()).model_trace
        terms = {}
        for name, site in pair.latents.items():
            node = trace.nodes[name]
            u, log_det = unconstrained(node["fn"], _value(trace, name))
            found[name].append(_outward_like(pair, u, node, site, count is not None))
            terms[name] = pair.layout.reduce(log_det, node, count is not None).double().cpu()
        return LogProb(terms, (), joint=pair.has_global_latents)

    total = scored(pair, batch, given, volume).total
    return {name: torch.cat(parts) for name, parts in found.items()}, total


def _outward_like(pair: Pair, u: Tensor, node: Mapping[str, Any], site: Any, particles: bool) -> Tensor:
    """U with the axes of a value; its event may have another shape (a simplex loses a dimension)."""
    rank = node["value"].dim() - len(site.event_shape)
    return outward(u, replace(site, event_shape=u.shape[rank:]), pair.layout, particles).double().cpu()


def constrain(pair: Pair, batch: Batch, given: Values) -> dict[str, Tensor]:
    """Latents z from unconstrained u, (S, N, ...) by site: all draws in one run where the pair vectorizes."""
    sites = {name: of_unconstrained(pair.latents[name], u) for name, u in given.items()}
    size = len(next(iter(given.values())))
    if pair.vectorizes(batch):
        inner = {name: inward(u, sites[name], pair.layout) for name, u in given.items()}
        return _constrained(pair, batch, inner, size)
    parts = [
        _constrained(pair, batch, {n: without_particles(u[s], sites[n], pair.layout) for n, u in given.items()}, None)
        for s in range(size)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in pair.latents}


def _constrained(pair: Pair, batch: Batch, inner: Values, count: int | None) -> dict[str, Tensor]:
    fn = Constrain(inner)(with_particles(pair.runner.model, pair.layout, count))
    trace = poutine.trace(fn).get_trace(batch)
    return {
        name: outward(_value(trace, name), site, pair.layout, count is not None).cpu()
        for name, site in pair.latents.items()
    }


def _value(trace: Any, name: str) -> Tensor:
    value: Tensor = trace.nodes[name]["value"]
    return value
