"""Which latents of a hierarchical model are better drawn in a non-centred form: tried, and decided by the ELBO."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.diagnostics.certificate import nats
from ppl_vae.guides.non_centred import location_scale
from ppl_vae.inference.deterministic import DeterministicVI
from ppl_vae.inference.ladder.ladder import MOST_FULL, guide_of
from ppl_vae.inference.ladder.reached import Reached
from ppl_vae.pair import Pair
from ppl_vae.pair.axis import sample_sites

__all__ = ["Choice", "candidates", "choose"]


@dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
        sites: the latents that are non-centred.
        reached: the fit with them so.
        said: of each that was tried, what it was worth.
    """

    sites: tuple[str, ...]
    reached: Reached
    said: tuple[str, ...]


def choose(
    model: Callable[..., Any], guide: Callable[..., Any] | None, data: Any, *, seed: int, options: Mapping[str, Any]
) -> Choice:
    """Make one latent after the other non-centred, and keep that where the ELBO on fresh draws gains beyond its errors.

    Parents come first, as in the model. A gain is believed where it is more than two standard errors of the difference,
    and than ``tol``.

    Args:
        model: a Pyro model.
        guide: makes the autoguide that it is tried with; None: full rank, or low rank above 100 latent numbers.
        data: the rows.
        seed: of each fit.
        options: of :class:`DeterministicVI`.

    Raises:
        ValueError: as :meth:`DeterministicVI.fit`.
    """
    make = guide or AutoMultivariateNormal
    best = _fitted(model, (), make, data, seed, options)
    if guide is None and best.dim > MOST_FULL:
        make = AutoLowRankMultivariateNormal
        best = _fitted(model, (), make, data, seed, options)
    sites: tuple[str, ...] = ()
    said: list[str] = []
    least = float(options.get("tol", 0.02))
    for name in candidates(best.fit.pair, data):
        tried = _fitted(model, (*sites, name), make, data, seed, options)
        gain, error = tried.height - best.height, math.hypot(_error(tried), _error(best))
        better = gain > max(2 * error, least)
        said.append(
            f"reparametrize='auto': {name} is {'non-centred' if better else 'as it is written'} (ELBO "
            f"{_shown(tried)} non-centred, {_shown(best)} as it is written)."
        )
        if better:
            best, sites = tried, (*sites, name)
    if not said:
        said.append("reparametrize='auto': no latent has a location or a scale that hangs on other latents.")
    return Choice(sites, best.put_back(), tuple(said))


def candidates(pair: Pair, data: Any) -> list[str]:
    """The latents with a location-scale prior on all real numbers whose location or scale hangs on other latents.

    Seen by two runs of the model with other draws, so what hangs on data or parameters alone is none.
    """
    batch, found = pair.as_batch(data), []
    with pair.scope(), torch.no_grad(), pair.mode(training=False):
        for seed in (1, 2):
            with isolated_rng(fold(seed, "hierarchy"), pair.device):
                trace = pair.runner.run_model(batch, {}, None).model_trace
            found.append({name: _numbers(site) for name, site in sample_sites(trace) if name in pair.latents})
    first, second = found
    return [name for name, numbers in first.items() if numbers is not None and not _same(numbers, second.get(name))]


def _numbers(site: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    fn = location_scale(site["fn"])
    return None if fn is None else (fn.loc, fn.scale)


def _same(numbers: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor] | None) -> bool:
    return others is not None and all(map(torch.equal, numbers, others))


def _fitted(
    model: Callable[..., Any],
    sites: tuple[str, ...],
    make: Callable[..., Any],
    data: Any,
    seed: int,
    options: Mapping[str, Any],
) -> Reached:
    began = time.perf_counter()
    way = DeterministicVI(model, guide_of(model, sites, make), **options)
    fit, solution = way.solved(data, seed=seed)
    return Reached.of(", ".join(sites), fit, solution, time.perf_counter() - began)


def _error(reached: Reached) -> float:
    error = reached.solution.fresh.error
    return error if math.isfinite(error) else 0.0  # of an ELBO that is minus infinity


def _shown(reached: Reached) -> str:
    if not math.isfinite(reached.height):
        return "no number"
    return nats(reached.height, reached.solution.fresh.error).removesuffix(" nats")
