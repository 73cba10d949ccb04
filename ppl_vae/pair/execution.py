"""One run of a pair on a batch: the guide draws, the model scores; log densities per site and per datum, in nats.

This is the ground of every objective and estimator. Nothing here knows of parameters groups, training or evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pyro
from pyro import poutine
from pyro.distributions.distribution import Distribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import DataAxis, sample_sites
from ppl_vae.pair.handlers import Substitute, has_density

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


def weight_of(site: Mapping[str, Any], layout: Layout) -> Any:
    """The site's scale without the data plate's own factor, which per-datum terms never carry."""
    scale = site["scale"]
    for frame in site["cond_indep_stack"]:
        if layout.axis is not None and frame.name == layout.axis.name and frame.full_size != frame.size:
            scale = scale * frame.size / frame.full_size
    if not isinstance(scale, Tensor) and abs(scale - 1.0) < 1e-12:
        return 1.0
    return scale


class SiteScore:
    """The log density of one site of a run, worked out when it is first asked for.

    Attributes:
        local: does it stand inside the data plate?
        observed: is its value given?
        weight: what ``poutine.scale`` put on the site: a factor that belongs to an objective, and to no density.
    """

    def __init__(self, name: str, site: Mapping[str, Any], layout: Layout, particles: bool) -> None:
        self.name, self.site = name, site
        self.local: bool = layout.is_local(site)
        self.observed: bool = site["is_observed"]
        self.weight: Any = weight_of(site, layout)
        self._layout, self._particles = layout, particles

    @cached_property
    def raw(self) -> Tensor:
        """The masked log density in the shape that Pyro gives it, in nats."""
        site = self.site
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        return self.masked(log_prob)

    @cached_property
    def log_prob(self) -> Tensor:
        """The masked log density, unweighted: (S, B) inside the data plate, (S,) outside, in nats."""
        return self.reduce(self.raw)

    def reduce(self, term: Tensor) -> Tensor:
        """A term of this site in Pyro's shape, summed to (S, B) or (S,)."""
        return self._layout.reduce(term, self.site, self._particles)

    def masked(self, term: Any) -> Any:
        """A term of this site in Pyro's shape, 0 where the site is masked."""
        return scale_and_mask(term, 1.0, self.site["mask"])

    @property
    def weighted(self) -> bool:
        """Has the model's author put a weight on this site?"""
        return isinstance(self.weight, Tensor) or self.weight != 1.0


class GuideScore(SiteScore):
    """The log density of a site of the guide, with the parts that gradients need."""

    @property
    def pathwise(self) -> bool:
        """Is the draw reparametrized through and through, so that log q is differentiated as it stands?"""
        fn = self.site["fn"]
        return bool(getattr(fn, "has_rsample", False)) and type(fn).score_parts is Distribution.score_parts

    @cached_property
    def _parts(self) -> Any:
        site = self.site
        return site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])

    @cached_property
    def raw(self) -> Tensor:
        """The masked log density in the shape that Pyro gives it, in nats."""
        log_prob: Tensor = self.masked(self._parts.log_prob)
        return log_prob

    @cached_property
    def entropy(self) -> Any:
        """What is differentiated in -log q, like ``log_prob``; 0 where the score function stands for it."""
        entropy = self._parts.entropy_term
        if entropy is self._parts.log_prob:
            return self.log_prob
        return 0 if is_identically_zero(entropy) else self.reduce(self.masked(entropy))

    @property
    def score(self) -> Any:
        """The score function term in Pyro's shape; 0 for a reparametrized draw."""
        return 0 if self.pathwise else self._parts.score_function


@dataclass(frozen=True)
class Execution:
    """A run: the guide's trace and the model's replayed against it, with the layout that reads them."""

    model_trace: Trace
    guide_trace: Trace
    layout: Layout
    num_particles: int | None

    def score_model(self) -> dict[str, SiteScore]:
        """Every sample site of the model, latent and observed, in the model's order."""
        return _scores(SiteScore, self.model_trace, self.layout, self.num_particles)

    def score_guide(self) -> dict[str, GuideScore]:
        """Every sample site of the guide, auxiliary ones included."""
        return _scores(GuideScore, self.guide_trace, self.layout, self.num_particles)

    def score_guide_with(self, change: Callable[[Any], Any]) -> dict[str, SiteScore]:
        """The guide's sites scored under ``change(distribution)`` at the values drawn."""
        particles = self.num_particles is not None
        return {
            name: SiteScore(name, {**site, "fn": change(site["fn"])}, self.layout, particles)
            for name, site in sample_sites(self.guide_trace)
            if has_density(site)
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


Score = TypeVar("Score", bound=SiteScore)


def _scores(score: Callable[..., Score], trace: Trace, layout: Layout, num_particles: int | None) -> dict[str, Score]:
    particles = num_particles is not None
    return {name: score(name, site, layout, particles) for name, site in sample_sites(trace) if has_density(site)}


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
