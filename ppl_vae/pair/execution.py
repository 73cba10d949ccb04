"""One run of a pair on a batch: the guide draws, the model scores; log densities per site and per datum, in nats.

This is the ground of every objective and estimator. Nothing here knows of parameters groups, training or evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro.poutine.trace_struct import Trace

from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.enumeration import Expectation
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.recycling import Summed
from ppl_vae.pair.scores import GuideScore, SiteScore, scores_of
from ppl_vae.pair.summation import Component, components, sum_out


@dataclass(frozen=True)
class Execution:
    """A run: the guide's trace and the model's replayed against it, with the layout that reads them.

    Attributes:
        expectation: over the guide's enumerated sites; None where all are drawn.
        summed: latent sites of the model alone, which are summed out of p, and what their dimensions mean.
    """

    model_trace: Trace
    guide_trace: Trace
    layout: Layout
    num_particles: int | None
    expectation: Expectation | None = None
    summed: Summed = field(default_factory=Summed)

    def score_model(self) -> dict[str, SiteScore]:
        """Every sample site of the model, latent and observed, in the model's order."""
        scores = self.score_model_with_summed()
        return sum_out(scores, self.summed) if self.summed else scores

    def score_model_with_summed(self) -> dict[str, SiteScore]:
        """The same before anything is summed out: terms have the dimensions of the summed sites."""
        return scores_of(SiteScore, self.model_trace, self.layout, self.num_particles, self.expectation)

    def components(self) -> list[Component]:
        """The sets of sites that hang together through summed ones."""
        return components(self.score_model_with_summed(), self.summed)

    def score_guide(self) -> dict[str, GuideScore]:
        """Every sample site of the guide, auxiliary ones included."""
        return scores_of(GuideScore, self.guide_trace, self.layout, self.num_particles, self.expectation)

    def score_guide_with(self, change: Callable[[Any], Any]) -> dict[str, SiteScore]:
        """The guide's sites scored under ``change(distribution)`` at the values drawn."""
        particles = self.num_particles is not None
        return {
            name: SiteScore(name, {**site, "fn": change(site["fn"])}, self.layout, particles)
            for name, site in sample_sites(self.guide_trace)
            if has_density(site)
        }

    def is_whole(self, site: Mapping[str, Any]) -> bool:
        """Is the site's distribution in this run that of all values of the enumerated sites?"""
        return True

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
