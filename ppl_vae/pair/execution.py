"""One run of a pair on a batch: the guide draws, the model scores; log densities per site and per datum, in nats.

This is the ground of every objective and estimator. Nothing here knows of parameters groups, training or evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import DataAxis, sample_sites
from ppl_vae.pair.handlers import Substitute

PARTICLES = "_particles"


@dataclass(frozen=True)
class Layout:
    """Where the axes of a pair lie: the data plate, and how many plate dimensions there are in all."""

    axis: DataAxis | None
    plate_nesting: int

    @property
    def particle_dim(self) -> int:
        """The dimension to the left of every plate of the pair."""
        return -(self.plate_nesting + 1)

    def is_local(self, site: Mapping[str, Any]) -> bool:
        """Does the site stand inside the data plate?"""
        return self.axis is not None and any(f.name == self.axis.name for f in site["cond_indep_stack"])

    def reduce(self, tensor: Tensor, site: Mapping[str, Any], particles: bool) -> Tensor:
        """Sum a batch-shaped tensor to (S, B) for a local site and to (S,) for a global one."""
        rank = tensor.dim()
        keep = []
        if particles and rank >= -self.particle_dim:
            keep.append(rank + self.particle_dim)
        has_particles = bool(keep)
        if self.axis is not None and self.is_local(site):
            keep.append(rank + self.axis.dim)
        others = [i for i in range(rank) if i not in keep]
        if others:
            tensor = tensor.sum(others)
        return tensor if has_particles else tensor.unsqueeze(0)


@dataclass(frozen=True)
class SiteScore:
    """The log density of one site.

    ``log_prob``: (S, B) inside the data plate, (S,) outside, in nats, masked but not weighted. ``entropy`` is the part
    that is differentiated in -log q (for a site of the guide; the number 0 where the score function stands for it) and
    ``score`` the score function term, or 0. ``weight`` is what ``poutine.scale`` put on the site: a factor that belongs
    to an objective, and to no density. ``raw`` is the masked log density in the shape that Pyro gives it.
    """

    name: str
    log_prob: Tensor
    raw: Tensor
    local: bool
    observed: bool
    weight: Any
    site: Mapping[str, Any]
    entropy: Any = None
    score: Any = 0

    @property
    def weighted(self) -> bool:
        """Has the model's author put a weight on this site?"""
        return isinstance(self.weight, Tensor) or self.weight != 1.0


def weight_of(site: Mapping[str, Any], layout: Layout) -> Any:
    """The site's scale without the data plate's own factor, which per-datum terms never carry."""
    scale = site["scale"]
    for frame in site["cond_indep_stack"]:
        if layout.axis is not None and frame.name == layout.axis.name and frame.full_size != frame.size:
            scale = scale * frame.size / frame.full_size
    if not isinstance(scale, Tensor) and abs(scale - 1.0) < 1e-12:
        return 1.0
    return scale


def score_site(name: str, site: Mapping[str, Any], layout: Layout, particles: bool) -> SiteScore:
    """The log density of a site of the model."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    raw = scale_and_mask(log_prob, 1.0, site["mask"])
    weight, local = weight_of(site, layout), layout.is_local(site)
    return SiteScore(name, layout.reduce(raw, site, particles), raw, local, site["is_observed"], weight, site)


def score_guide_site(name: str, site: Mapping[str, Any], layout: Layout, particles: bool) -> SiteScore:
    """The log density of a site of the guide, in the parts that gradients need."""
    parts = site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])
    mask = site["mask"]
    raw = scale_and_mask(parts.log_prob, 1.0, mask)
    log_prob = layout.reduce(raw, site, particles)
    if parts.entropy_term is parts.log_prob:
        entropy: Any = log_prob
    elif is_identically_zero(parts.entropy_term):
        entropy = 0
    else:
        entropy = layout.reduce(scale_and_mask(parts.entropy_term, 1.0, mask), site, particles)
    weight, local = weight_of(site, layout), layout.is_local(site)
    return SiteScore(
        name, log_prob, raw, local, site["is_observed"], weight, site, entropy=entropy, score=parts.score_function
    )


@dataclass(frozen=True)
class Execution:
    """A run: the guide's trace and the model's replayed against it, with the layout that reads them."""

    model_trace: Trace
    guide_trace: Trace
    layout: Layout
    num_particles: int | None

    def score_model(self) -> dict[str, SiteScore]:
        """Every sample site of the model, latent and observed, in the model's order."""
        return _scores(score_site, self.model_trace, self.layout, self.num_particles)

    def score_guide(self) -> dict[str, SiteScore]:
        """Every sample site of the guide, auxiliary ones included."""
        return _scores(score_guide_site, self.guide_trace, self.layout, self.num_particles)

    def score_guide_with(self, change: Callable[[Any], Any]) -> dict[str, SiteScore]:
        """The guide's sites scored under ``change(distribution)`` at the values drawn."""
        particles = self.num_particles is not None
        return {
            name: score_site(name, {**site, "fn": change(site["fn"])}, self.layout, particles)
            for name, site in sample_sites(self.guide_trace)
        }

    @property
    def data_plate(self) -> Any:
        """The data plate's frame in this run (its ``size`` is B, its ``full_size`` what the pair says of N)."""
        axis = self.layout.axis
        for trace in (self.model_trace, self.guide_trace):
            for _, site in sample_sites(trace):
                for frame in site["cond_indep_stack"]:
                    if axis is not None and frame.name == axis.name:
                        return frame
        return None


def _scores(
    score: Callable[..., SiteScore], trace: Trace, layout: Layout, num_particles: int | None
) -> dict[str, SiteScore]:
    return {name: score(name, site, layout, num_particles is not None) for name, site in sample_sites(trace)}


def with_particles(fn: Callable[..., Any], layout: Layout, num_particles: int | None) -> Callable[..., Any]:
    """Put ``fn`` into an outermost plate of particles (None: as it is)."""
    if num_particles is None:
        return fn
    plate = pyro.plate(PARTICLES, num_particles, dim=layout.particle_dim)
    return plate(fn)


Callee = Callable[[Batch], Any]


def run_model(
    model: Callee, batch: Batch, layout: Layout, *, values: Mapping[str, Tensor], num_particles: int | None = None
) -> Trace:
    """Run the model alone, its latent sites at the given values; the others are drawn from the prior."""
    fn = Substitute(values)(with_particles(model, layout, num_particles))
    return poutine.trace(fn).get_trace(batch)


def run_pair(
    model: Callee,
    guide: Callee,
    batch: Batch,
    layout: Layout,
    *,
    num_particles: int | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> Execution:
    """Run the guide (at given values, or drawing), then the model against it."""
    guided = with_particles(guide, layout, num_particles)
    guide_trace = poutine.trace(Substitute(values)(guided) if values else guided).get_trace(batch)
    replayed = poutine.replay(with_particles(model, layout, num_particles), trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(batch)
    return Execution(model_trace, guide_trace, layout, num_particles)
