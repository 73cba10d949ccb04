"""Making runs: the guide at given values, drawing or enumerating, and the model against it; many at once if checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.calls import Call, shape_key
from ppl_vae.pair.checks import require_enumerable, shaken, vectorizes
from ppl_vae.pair.enumeration import Enumerate, Expectation
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.explain import explained
from ppl_vae.pair.extra import Feeds
from ppl_vae.pair.handlers import Substitute, same_rows
from ppl_vae.pair.holes import Holes
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.masks import as_in_model
from ppl_vae.pair.parameters import Parameters
from ppl_vae.pair.pieces import InPieces, pieces_of
from ppl_vae.pair.recycling import GiveSupport, Summed
from ppl_vae.pair.scope import Scope
from ppl_vae.pair.scores import SiteScore
from ppl_vae.pair.sites import Sites
from ppl_vae.pair.structure import Structure, StructureChanged, structure_of_run

PARTICLES = "_particles"


def with_particles(fn: Callable[..., Any], layout: Layout, num_particles: int | None) -> Callable[..., Any]:
    """Put ``fn`` into an outermost plate of particles (None: as it is)."""
    if num_particles is None:
        return fn
    plate = pyro.plate(PARTICLES, num_particles, dim=layout.particle_dim)
    return plate(fn)


Callee = Callable[[Batch], Any]


def run_model(
    model: Callee,
    batch: Batch,
    layout: Layout,
    *,
    values: Mapping[str, Tensor],
    num_particles: int | None = None,
    summed: Collection[str] = (),
    given: Messenger | None = None,
) -> Execution:
    """Run the model alone, its latent sites at the given values, ``summed`` ones summed out; others are drawn.

    ``given`` puts the values into place, where they are not the sites' own.
    """
    every = GiveSupport(frozenset(summed) - set(values), layout.particle_dim - 1)
    fn = every((given or Substitute(values))(with_particles(model, layout, num_particles)))
    trace = poutine.trace(fn).get_trace(batch)
    return Execution(trace, trace, layout, num_particles, summed=every.summed)


def run_pair(
    model: Callee,
    guide: Callee,
    batch: Batch,
    layout: Layout,
    feeds: Feeds,
    *,
    num_particles: int | None = None,
    values: Mapping[str, Tensor] | None = None,
    enumerated: Collection[str] = (),
    summed: Collection[str] = (),
    in_pieces: bool = True,
) -> Execution:
    """Run the guide (at given values, or drawing), then the model against it.

    Args:
        feeds: see :class:`Sites`.
        enumerated: sites of the guide that are not drawn: each takes its whole support.
        summed: sites of the model alone that are summed out of p.
        in_pieces: keep to the memory bound that an enumerated site may have (``infer={"max_rows": ...}``).
    """
    first_dim = layout.particle_dim - 1
    guided = with_particles(guide, layout, num_particles)
    every = Enumerate(enumerated, first_dim)
    guide_trace = poutine.trace(every(Substitute(values)(guided) if values else guided)).get_trace(batch)
    expectation = Expectation(guide_trace, every.dims, first_dim) if every.dims else None
    model = with_particles(model, layout, num_particles)

    def replayed(guide_trace: Trace) -> tuple[Trace, Summed]:
        out = GiveSupport(summed, first_dim - len(every.dims))
        return poutine.trace(out(poutine.replay(model, trace=guide_trace))).get_trace(batch), out.summed

    cuts = pieces_of(guide_trace, expectation) if in_pieces and expectation is not None else []
    if len(cuts) > 1 and expectation is not None:
        return InPieces.of(guide_trace, layout, num_particles, expectation, replayed, cuts, feeds)
    model_trace, out = replayed(guide_trace)
    guide_trace = as_in_model(guide_trace, model_trace, feeds)
    return Execution(model_trace, guide_trace, layout, num_particles, expectation, out)


class Runs:
    """The runs of one pair: its model and guide as functions of a batch, where they run, and what was checked of them.

    Args:
        model, guide: as functions of a batch.
        scope, sites, parameters: the pair's.
    """

    def __init__(self, model: Call, guide: Call, scope: Scope, sites: Sites, parameters: Parameters) -> None:
        self.model, self.guide = model, guide
        self.scope, self.sites, self.parameters = scope, sites, parameters
        self.expected: Structure | None = None  # of every run, where the model may change under the pair
        self.holes = Holes(model, guide, scope)
        self._checks: dict[Any, Any] = {}
        self.weighted: tuple[str, ...] = ()  # the sites that bore a weight (poutine.scale) in the latest evaluation
        self.said: set[str] = set()  # what has been said of the pair, and is not said twice

    def run(
        self,
        batch: Batch,
        *,
        num_particles: int | None = None,
        values: Mapping[str, Tensor] | None = None,
        enumerated: Collection[str] = (),
        in_pieces: bool = True,
    ) -> Execution:
        """One run of guide and model with gradients, for objectives; call it inside the pair's scope.

        Raises:
            ValueError: the model masks entries of a latent on which something depends that is not masked.
            StructureChanged: the run is not as ``expected``.
        """
        with explained(self.model, self.guide, batch):
            run = run_pair(
                self.model,
                self.guide,
                batch,
                self.sites.layout,
                self.sites.feeds,
                num_particles=num_particles,
                values=values,
                enumerated=enumerated,
                summed=self.sites.summed,
                in_pieces=in_pieces,
            )
        if self.expected is not None and self.expected != structure_of_run(run.model_trace, run.guide_trace, PARTICLES):
            raise StructureChanged
        self.holes.require_absent(batch, run.model_trace)
        return run

    def run_model(
        self,
        batch: Batch,
        values: Mapping[str, Tensor],
        count: int | None,
        summed: Collection[str] | None = None,
        given: Messenger | None = None,
    ) -> Execution:
        """One run of the model alone, its latents at the given values; others are drawn, or summed out."""
        with explained(self.model, self.model, batch):
            return run_model(
                self.model,
                batch,
                self.sites.layout,
                values=values,
                num_particles=count,
                summed=self.sites.summed if summed is None else summed,
                given=given,
            )

    def rescore_guide(self, batch: Batch, run: Execution) -> dict[str, SiteScore]:
        """Run the guide anew at the values that ``run`` has drawn: densities on parameters as they are frozen now."""
        values = {n: s["value"] for n, s in sample_sites(run.guide_trace) if not s["is_observed"]}
        guide = with_particles(self.guide, self.sites.layout, run.num_particles)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* was not registered in the param store because requires_grad=False")
            with same_rows(run.guide_trace):
                trace = poutine.trace(Substitute(values)(guide)).get_trace(batch)
        trace = as_in_model(trace, run.model_trace, self.sites.feeds)
        return Execution(trace, trace, self.sites.layout, run.num_particles).score_model()

    def many(self, batch: Batch, num_particles: int, *, enumerate: bool = False) -> list[Execution]:
        """``num_particles`` runs: a single vectorized one where the pair allows it, else one after the other.

        With ``enumerate`` the sites that the guide marks so take all their values instead of being drawn.
        """
        sites = self.sites.enumerated if enumerate else frozenset()
        if sites:
            self.require_enumerable(batch)
        if num_particles == 1:
            return [self.run(batch, enumerated=sites)]
        if self.vectorizes(batch):
            return [self.run(batch, num_particles=num_particles, enumerated=sites)]
        first = self.run(batch, enumerated=sites)
        # A pair that draws a subsample itself: draws of a datum are weighed together, so all are of the same rows.
        with same_rows(first.guide_trace, first.model_trace):
            return [first, *(self.run(batch, enumerated=sites) for _ in range(num_particles - 1))]

    def vectorizes(self, batch: Batch) -> bool:
        """Can many draws be made in one run? Found by comparing such a run with the same draws one by one."""
        return bool(self.checked("vectorizes", batch, vectorizes))

    def require_enumerable(self, batch: Batch) -> None:
        """Raise ValueError if the pair does not give, with all values of its marked sites at once, what it gives alone.

        Found by comparing, for each shape of data, like :meth:`vectorizes`.
        """
        self.checked("enumerable", batch, require_enumerable)

    def checked(self, what: str, batch: Batch, check: Callable[[Runs, Batch], Any]) -> Any:
        """What a check finds, made once for each shape of data, on noise of its own, at slightly shaken parameters."""
        key = (what, shape_key(batch))
        if key not in self._checks:
            noise, still = isolated_rng(fold(0, what), self.scope.device), self.scope.mode(training=False)
            leaves = self.parameters.leaves.values()
            with torch.no_grad(), noise, still, shaken(leaves, self.scope.modules()):
                self._checks[key] = check(self, batch)
        return self._checks[key]
