"""The first look at a pair: one run on data, with Pyro's checks on, shows its sites and whose its parameters are."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine

from ppl_vae._random import isolated_rng
from ppl_vae.data.rows import Batch
from ppl_vae.pair.absent import Absence, require_posterior_wanted
from ppl_vae.pair.axis import DataAxisError, find_data_axis, sample_sites
from ppl_vae.pair.calls import Call
from ppl_vae.pair.checks import check_shapes
from ppl_vae.pair.explain import explained
from ppl_vae.pair.extra import feeds_of, warn_of_extra
from ppl_vae.pair.masks import remasked
from ppl_vae.pair.outside import inside
from ppl_vae.pair.parameters import Parameters, collect, reached_by
from ppl_vae.pair.points import detach
from ppl_vae.pair.scope import Scope, empty_store, validation
from ppl_vae.pair.sites import Sites
from ppl_vae.pair.unobserved import warn_of_nothing_observed

__all__ = ["Look", "look"]


@dataclass(frozen=True)
class Look:
    """What a first run has shown: the sites, and the parameters by name and group."""

    sites: Sites
    parameters: Parameters


def look(
    model: Call,
    guide: Call,
    scope: Scope,
    batch: Batch,
    *,
    seed: int | None,
    data_plate: str | None = None,
    strict: bool = True,
) -> Look:
    """Run guide and model once on a batch.

    Args:
        model, guide: as functions of a batch.
        seed: of lazy parameters; None, under Pyro's own SVI: they are drawn from the caller's generator, as Pyro does.
        data_plate: its name, where the pair leaves it open.
        strict: raise if the plate of the data cannot be told; else the pair has none.

    Raises:
        DataAxisError: see ``strict``.
    """
    noise = isolated_rng(seed, scope.device) if seed is not None else nullcontext()
    try:
        # In eval mode: a look at the pair must not move running means.
        still, said = scope.mode(training=False), explained(model, guide, batch, known=False)
        with scope(), noise, validation(True), torch.enable_grad(), still, said:
            return _look(model, guide, scope, batch, data_plate, strict)
    except (NotImplementedError, AttributeError) as error:
        known = "local param mode" in str(error) or "param_state" in str(error)
        if not known or not scope.local_params:
            raise
    # A PyroModule with pyro.param statements, or one hidden where we cannot see it: Pyro's older scheme, in which
    # modules register by name, serves these; the store is still our own.
    scope.local_params, scope.store = False, empty_store()
    return look(model, guide, scope, batch, seed=seed, data_plate=data_plate, strict=strict)


def _look(model: Call, guide: Call, scope: Scope, batch: Batch, data_plate: str | None, strict: bool) -> Look:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "trying to observe a value outside of inference")
        guide_trace = poutine.trace(guide).get_trace(batch)
        by_guide = reached_by(guide_trace)
        detach(guide_trace)  # z carries φ into log p; at constant z the model shows what is its own
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(batch)
    try:
        axis = find_data_axis((model_trace, guide_trace), batch.size, data_plate, batch.num_data)
    except DataAxisError:
        if strict:
            raise
        axis = None
    with inside(dict([*sample_sites(guide_trace), *sample_sites(model_trace)]), model_trace):
        check_shapes(model_trace, guide_trace)
    feeds = feeds_of(guide, batch, guide_trace, model_trace, scope.device)
    warn_of_extra(guide_trace, model_trace, feeds)
    warn_of_nothing_observed(model, model_trace, batch)
    differing = remasked(guide_trace, model_trace, feeds)  # says at once where masks cannot be put
    absence = Absence(model, batch, model_trace, scope.device)
    absence.require_absent(guide_trace)
    require_posterior_wanted(scope.roots[1], guide_trace, absence)
    store: Any = dict(pyro.get_param_store().get_state())  # the pair's own one, which the scope has put in place
    roots = scope.roots
    parameters = collect(roots[0], roots[1], store, guide_trace, reached_by(model_trace), by_guide)
    return Look(Sites.of(model_trace, guide_trace, axis, feeds, differing), parameters)
