"""Making a run: the guide at given values, drawing or enumerating, and the model against it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.pair.enumeration import Enumerate, Expectation
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.handlers import Substitute
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.pieces import InPieces, pieces_of

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
) -> Execution:
    """Run the model alone, its latent sites at the given values, ``summed`` ones summed out; others are drawn."""
    every = Enumerate(frozenset(summed) - set(values), layout.particle_dim - 1)
    fn = every(Substitute(values)(with_particles(model, layout, num_particles)))
    trace = poutine.trace(fn).get_trace(batch)
    return Execution(trace, trace, layout, num_particles, summed=every.dims)


def run_pair(
    model: Callee,
    guide: Callee,
    batch: Batch,
    layout: Layout,
    *,
    num_particles: int | None = None,
    values: Mapping[str, Tensor] | None = None,
    enumerated: Collection[str] = (),
    summed: Collection[str] = (),
    in_pieces: bool = True,
) -> Execution:
    """Run the guide (at given values, or drawing), then the model against it.

    Args:
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

    def replayed(guide_trace: Trace) -> tuple[Trace, Mapping[str, int]]:
        out = Enumerate(summed, first_dim - len(every.dims))
        return poutine.trace(out(poutine.replay(model, trace=guide_trace))).get_trace(batch), out.dims

    cuts = pieces_of(guide_trace, expectation) if in_pieces and expectation is not None else []
    if len(cuts) > 1 and expectation is not None:
        return InPieces.of(guide_trace, layout, num_particles, expectation, replayed, cuts)
    model_trace, dims = replayed(guide_trace)
    return Execution(model_trace, guide_trace, layout, num_particles, expectation, dims)
