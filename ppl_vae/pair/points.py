"""Latents that a guide gives as points: whose volume an observed site counts, and whose nobody does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyro.distributions import Delta
from pyro.poutine.trace_struct import Trace

from ppl_vae.distributions import CountsVolume, PointMass, unwrap
from ppl_vae.pair.axis import sample_sites


def is_point(fn: Any) -> bool:
    """Is this a point mass, perhaps inside wrappers?"""
    return isinstance(unwrap(fn, (Delta, PointMass)), Delta | PointMass)


def counting(trace: Trace) -> Iterator[CountsVolume]:
    """The observed sites of a model that count the volume of a latent."""
    for _, site in sample_sites(trace):
        fn = unwrap(site["fn"], CountsVolume)
        if site["is_observed"] and isinstance(fn, CountsVolume):
            yield fn


def unpaid(guide_sites: Mapping[str, Any], model_trace: Trace) -> list[str]:
    """The latents that the guide gives as points, and whose volume no observed site counts."""
    values = [fn.latent for fn in counting(model_trace)]

    def is_paid(name: str) -> bool:
        return any(model_trace.nodes[name]["value"] is value for value in values)

    points = [name for name, site in guide_sites.items() if name in model_trace.nodes and is_point(site["fn"])]
    return [name for name in points if not is_paid(name)]


def is_exact(guide_sites: Mapping[str, Any], model_trace: Trace) -> bool:
    """Is log p(x, z) - log q(z | x) log p(x) itself? Every latent a point, its volume counted, and exactly so."""
    latents = [name for name, site in sample_sites(model_trace) if not site["is_observed"]]
    if not latents or set(latents) != set(guide_sites) or unpaid(guide_sites, model_trace):
        return False
    return all(is_point(site["fn"]) for site in guide_sites.values()) and all(fn.exact for fn in counting(model_trace))


def detach(trace: Trace) -> None:
    """Cut the values of a guide's trace off its parameters; a point goes on carrying where it comes from."""
    points = {
        name: site["fn"].cut(site["value"]) for name, site in sample_sites(trace) if isinstance(site["fn"], PointMass)
    }
    trace.detach_()
    for name, value in points.items():
        trace.nodes[name]["value"] = value
