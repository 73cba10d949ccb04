"""What a run must share with the first look at a pair, for what was found there to hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.poutine.trace_struct import Trace

from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.enumeration import is_marked
from ppl_vae.pair.particles import Site
from ppl_vae.pair.sites import Sites

__all__ = ["Structure", "StructureChanged", "structure_of", "structure_of_run"]

Structure = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Of the model and of the guide: by site, whether it is latent or enumerated, and the plates around it."""


class StructureChanged(Exception):
    """A run has other sites, or has them in other plates, than the first look at the pair has shown."""


def structure_of(sites: Sites) -> Structure:
    """What the look has shown."""
    axis = sites.layout.axis

    def plates(site: Site) -> frozenset[Any]:
        own = {(axis.name, axis.dim)} if axis is not None and site.is_local else set()
        return frozenset({*zip(site.plates, site.plate_dims, strict=True), *own})

    model = {n: (n in sites.latent, n in sites.summed, plates(site)) for n, site in sites.model.items()}
    return model, {n: (n in sites.enumerated, plates(site)) for n, site in sites.guide.items()}


def structure_of_run(model_trace: Trace, guide_trace: Trace, particles: str) -> Structure:
    """What a run shows, but for its plate of particles."""

    def plates(site: Any) -> frozenset[Any]:
        frames = site["cond_indep_stack"]
        return frozenset({(f.name, f.dim) for f in frames if f.vectorized and f.name != particles})

    drawn = {n: (is_marked(s), plates(s)) for n, s in sample_sites(guide_trace) if not s["is_observed"]}
    model = {
        name: (not site["is_observed"], is_marked(site) and name not in drawn, plates(site))
        for name, site in sample_sites(model_trace)
    }
    return model, drawn
