"""Sites that the guide draws and the model lacks: auxiliaries, whose density a point takes back, and all others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.handlers import Substitute, has_density
from ppl_vae.pair.points import is_point

__all__ = ["Feeds", "extra_sites", "feeds_of", "is_latent", "is_observation", "warn_of_extra"]

Feeds = Mapping[str, tuple[str, ...]]
"""By site of the guide that the model lacks: the latents that are points and follow from it."""

REDRAWS = 3
"""A discrete draw may come out the same again."""


def is_latent(trace: Trace, name: str) -> bool:
    """Does this run of the model draw a latent of this name (and observe none)?"""
    site: Any = trace.nodes.get(name)
    return site is not None and site["type"] == "sample" and not site["is_observed"]


def is_observation(site: Mapping[str, Any]) -> bool:
    """Does a guide observe something here (and not count a ``pyro.factor``)? That is no part of log q."""
    return bool(site["is_observed"]) and has_density(site) and not isinstance(site["fn"], Unit)


def extra_sites(guide_trace: Trace, model_trace: Trace) -> dict[str, Any]:
    """The sites that a guide draws and that are no latents of the model."""
    return {
        name: site
        for name, site in sample_sites(guide_trace)
        if not site["is_observed"] and has_density(site) and not is_latent(model_trace, name)
    }


def feeds_of(guide: Callable[[Batch], Any], batch: Batch, guide_trace: Trace, model_trace: Trace, device: Any) -> Feeds:
    """Which points each extra site of a guide goes into, found by a run at given values of these sites.

    A site goes into a point if the point's value has a gradient in it, or, where one of the two is discrete, if
    another value of the site gives another point.
    """
    extra = extra_sites(guide_trace, model_trace)
    points = [n for n, s in sample_sites(guide_trace) if is_latent(model_trace, n) and is_point(s["fn"])]
    if not extra or not points:
        return dict.fromkeys(extra, ())
    values = {name: site["value"].detach() for name, site in extra.items()}

    def run(given: Mapping[str, Tensor]) -> Any:
        with isolated_rng(fold(0, "feeds"), device):  # equal noise, whatever the given values are
            return poutine.trace(Substitute(given)(guide)).get_trace(batch).nodes

    smooth = {name: v.clone().requires_grad_() for name, v in values.items() if v.is_floating_point()}
    nodes = run({**values, **smooth})
    found: dict[str, set[str]] = {name: set() for name in extra}
    for point in points:
        for name in _with_gradient(nodes[point]["value"], smooth):
            found[name].add(point)
    stepwise = {name for name in points if not nodes[name]["value"].is_floating_point()}
    for name, site in extra.items():
        for _ in range(REDRAWS if stepwise or name not in smooth else 0):
            moved = run({**values, name: site["fn"].sample().detach()})
            found[name] |= {p for p in points if not torch.equal(moved[p]["value"], nodes[p]["value"])}
    return {name: tuple(p for p in points if p in found[name]) for name in extra}


def _with_gradient(value: Tensor, leaves: Mapping[str, Tensor]) -> list[str]:
    if not value.requires_grad or not leaves:
        return []
    grads = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
    return [name for name, grad in zip(leaves, grads, strict=True) if grad is not None]


def warn_of_extra(guide_trace: Trace, model_trace: Trace, feeds: Feeds) -> None:
    """Say by name, as Pyro does, what the guide has and the model has not, unless it is marked as auxiliary."""
    extra = _unmarked(extra_sites(guide_trace, model_trace))
    seen = _unmarked({name: site for name, site in sample_sites(guide_trace) if is_observation(site)})
    counted = [name for name in extra if feeds.get(name)]
    left_out = [name for name in extra if not feeds.get(name)]
    if counted:
        _warn("draws", counted, "counted as auxiliaries, since latents that are points follow from them")
    if left_out:
        _warn("draws", left_out, "left out of log q: a bound that counted their entropy would be none")
    if seen:
        _warn("observes", seen, "left out of log q: a guide has nothing to observe")


def _unmarked(sites: Mapping[str, Any]) -> list[str]:
    return [name for name, site in sites.items() if not site["infer"].get("is_auxiliary")]


def _warn(does: str, names: list[str], what: str) -> None:
    they = "is no latent of the model; it is" if len(names) == 1 else "are no latents of the model; they are"
    warnings.warn(
        f"Pair: the guide {does} {', '.join(map(repr, names))}, which {they} {what}. A misspelt name? If it is meant, "
        "mark it with infer={'is_auxiliary': True}",
        stacklevel=2,
    )
