"""What of a pair is not believed but checked: its shapes, and that many draws or classes at once are as one by one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor, nn

from ppl_vae.data.rows import Batch
from ppl_vae.distributions import PointMass
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.enumeration import cut, dims_in, drop_left
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.handlers import Substitute, same_rows
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.particles import outward, without_particles
from ppl_vae.pair.scores import SiteScore

if TYPE_CHECKING:
    from ppl_vae.pair.runs import Runs


def check_shapes(model_trace: Trace, guide_trace: Trace) -> None:
    """Pyro's own checks of both traces: plates against batch shapes, model against guide."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sites on one side alone: some objectives allow them, ours say so themselves
        model, guide = (prune_subsample_sites(trace) for trace in (model_trace, guide_trace))
        check_model_guide_match(model, guide)
        for trace in (model, guide):
            trace.compute_log_prob()
            for _, site in sample_sites(trace):
                check_site_shape(site, cast(int, float("inf")))


@contextmanager
def shaken(leaves: Iterable[Tensor], modules: Iterable[nn.Module]) -> Iterator[None]:
    """Every parameter a little off, and buffers free to change: where a weight starts at 0, a wrong broadcast would not
    be seen.

    Other memory is put under the tensors for the time; their own is not written, so that a backward pass that has saved
    them goes on as if nothing had been.
    """
    before = [(leaf, leaf.data) for leaf in leaves]
    kept = {id(b): b for module in modules for b in module.buffers()}
    still = [(buffer, buffer.data) for buffer in kept.values()]
    try:
        for leaf, own in before:
            leaf.data = own + 0.1 * torch.randn_like(own)
        for buffer, own in still:
            buffer.data = own.clone()
        yield
    finally:
        for tensor, own in (*before, *still):
            tensor.data = own


def is_out_of_memory(error: BaseException) -> bool:
    """Has memory run out? Then a check has found nothing."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


# -- many draws ------------------------------------------------------------------------------------------------------


def vectorizes(runs: Runs, batch: Batch) -> bool:
    """Has each draw of a vectorized run the densities that it has alone?"""
    sizes = {size for t in (*batch.args, *batch.kwargs.values()) if isinstance(t, Tensor) for size in t.shape}
    sizes |= {size for site in runs.sites.guide.values() for size in site.event_shape}
    count = next(n for n in (2, 3, 5, 7, 11, 13, 17, 19, 23) if n not in sizes or n == 23)  # like no other axis
    try:
        both = runs.run(batch, num_particles=count)
        together = {**_tagged("model", both.score_model()), **_tagged("guide", both.score_guide())}
        return all(_agrees(runs, batch, both, together, i) for i in range(count))
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        return False  # a shape that only holds without a particle dimension


def _agrees(runs: Runs, batch: Batch, both: Execution, together: Mapping[str, SiteScore], i: int) -> bool:
    values, traced = {}, dict(sample_sites(both.guide_trace))
    layout = runs.sites.layout
    for name, site in runs.sites.guide.items():
        fn, value = traced[name]["fn"], traced[name]["value"]
        drawn = without_particles(outward(value, site, layout, True)[i], site, layout)
        values[name] = fn.alone(value, drawn, i) if isinstance(fn, PointMass) else drawn
    # What the model draws by itself (y, where the rows come without it) is held too: else other draws are compared.
    by_model = {
        name: without_particles(
            outward(site["value"], runs.sites.model[name], layout, True)[i], runs.sites.model[name], layout
        )
        for name, site in sample_sites(both.model_trace)
        if not site["is_observed"] and name in runs.sites.model and name not in {*runs.sites.guide, *runs.sites.summed}
    }
    with same_rows(both.guide_trace, both.model_trace), Substitute(by_model):
        one = runs.run(batch, values=values)
    alone = {**_tagged("model", one.score_model()), **_tagged("guide", one.score_guide())}
    return all(
        torch.allclose(score.log_prob[i], alone[name].log_prob[0], rtol=1e-3, atol=1e-3)
        for name, score in together.items()
    )


def _tagged(role: str, scores: Mapping[str, SiteScore]) -> dict[str, SiteScore]:
    return {f"{role}.{name}": score for name, score in scores.items()}


# -- many classes ----------------------------------------------------------------------------------------------------


def require_enumerable(runs: Runs, batch: Batch) -> None:
    """Raise ValueError unless the first and the last class have, among all at once, the densities that they have alone.

    Of a run in pieces the first piece is looked at.
    """
    who = ", ".join(map(repr, sorted(runs.sites.enumerated)))
    try:
        run = runs.run(batch, enumerated=runs.sites.enumerated)
        scores = _model_scores(run)
        together = {name: score.bare for name, score in scores.items()}
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        if str(error).startswith("enumeration:") or is_out_of_memory(error):  # which say themselves what is wrong
            raise
        raise ValueError(
            f"Pair: the pair does not run with all values of {who} at once, along dimensions to the left of the plates "
            f"({_first_line(error)}); let everything left of the datum broadcast (`ppl_vae.nn.apply_batched` does "
            "this around a network), or leave infer={'enumerate': 'parallel'} away and draw the site"
        ) from error
    assert run.expectation is not None
    for score in scores.values():
        run.expectation.require_inside(dims_in(score.bare, run.expectation.dims), score.site)
    for which in (0, -1):
        with same_rows(run.guide_trace, run.model_trace):
            alone = _model_scores(runs.run(batch, values=_values_at(run, which, run.layout)))
        for name, term in together.items():
            if not torch.allclose(_at(term, run, which), alone[name].bare, rtol=1e-3, atol=1e-3):
                raise ValueError(
                    f"Pair: with all values of {who} at once the site {name!r} has another density than with one of "
                    "them: something left of the datum is mixed up (an index that counts axes from the left, such as "
                    "z[:, 0]?); let it broadcast, or draw the site"
                )


def _model_scores(run: Execution) -> dict[str, SiteScore]:
    """The model's scores; of a run in pieces, those of the first."""
    return Execution(run.model_trace, run.guide_trace, run.layout, run.num_particles, summed=run.summed).score_model()


def _values_at(run: Execution, which: int, layout: Layout) -> dict[str, Tensor]:
    """The values of the guide's sites at the first (0) or last (-1) of the enumerated values that the model saw."""
    values = {}
    for name, site in sample_sites(run.guide_trace):
        event = len(site["fn"].event_shape)
        value = _at(run.model_trace.nodes.get(name, site)["value"], run, which, event)
        plates = site["fn"].batch_shape[max(0, len(site["fn"].batch_shape) + layout.particle_dim + 1) :]
        values[name] = value.expand(torch.broadcast_shapes(value.shape, (*plates, *site["fn"].event_shape)))
    return values


def _at(term: Tensor, run: Execution, which: int, event_dim: int = 0) -> Tensor:
    assert run.expectation is not None
    for dim in run.expectation.dims.values():
        place = dim - event_dim
        size = term.shape[place] if term.dim() >= -place else 1
        term = cut(term, place, which % size, 1)
    return drop_left(term, -run.layout.particle_dim - 1 + event_dim)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
