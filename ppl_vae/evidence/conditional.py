r"""p(x_n | w): the density of each datum given the latents w that all data share, its own latents integrated out.

.. math:: p(x_n \mid w) = \int p(x_n, z_n \mid w) \, dz_n

Exactly where there is nothing to integrate, or where z_n takes few values; else by draws of z_n, which the guide
proposes if it can be run at a given w, and the model itself if not. Given w the data are independent, so that the
density of all is the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import numbers_per_datum, slices
from ppl_vae.evidence.mixture import draws_by_width, weigh
from ppl_vae.evidence.weights import finite
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.fixed_noise import NOT_UNDER_VMAP
from ppl_vae.pair.mapped import DrawWider
from ppl_vae.pair.particles import inward, without_particles
from ppl_vae.pair.scope import validation
from ppl_vae.pair.scores import SiteScore
from ppl_vae.pair.table import FEW_CODES
from ppl_vae.pair.widening import guide_scores

if TYPE_CHECKING:
    from ppl_vae.data.rows import Batch, Rows
    from ppl_vae.pair import Pair
    from ppl_vae.pair.execution import Execution

__all__ = [
    "WAYS",
    "Conditional",
    "Integration",
    "Local",
    "density_outside",
    "follow_shared_draws",
    "given_shared",
    "local_latents",
    "log_q_at",
]

Local = Literal["auto", "guide", "prior"]
"""Who proposes a datum's own latents."""

WAYS = {"exact": "none", "sum": "summed out", "guide": "drawn from the guide", "prior": "drawn from the model"}
"""What became of a datum's own latents that the guide has a posterior of."""

Values = Mapping[str, Tensor]
Scores = Callable[..., Tensor]


@dataclass(frozen=True)
class Conditional:
    """Log p(x_n | w) at S values of the shared latents.

    Attributes:
        log_p: (S, N) nats, float64. Where local latents are drawn its exponential is unbiased.
        variance: (S, N), the relative variance of that exponential by the draws of local latents; 0 where it is exact.
        way: what became of local latents, a key of ``WAYS``.
    """

    log_p: Tensor
    variance: Tensor
    way: str


@dataclass(frozen=True)
class Integration:
    """How latents of single data are integrated out, where they are not summed out.

    Args:
        local: who proposes them: the guide, the model ("prior"), or the guide where it can be run on these rows at
            given shared latents, else the model.
        num_local: draws of them for each value of the shared latents.
        widths: of the guide's spread; see ``ImportanceWeighted``.
        max_elements: how many numbers one run of the pair may handle.

    Raises:
        ValueError: ``local`` is none of the three; fewer than two draws.
    """

    local: Local
    num_local: int
    widths: Sequence[float]
    max_elements: int

    def __post_init__(self) -> None:
        """Check what is asked for."""
        if self.local not in ("auto", "guide", "prior"):
            raise ValueError(f"log p(x | shared latents): local must be 'auto', 'guide' or 'prior', got {self.local!r}")
        if self.num_local < 2:
            raise ValueError(f"log p(x | shared latents): num_local must be at least 2, got {self.num_local}")

    def block(self, pair: Pair, rows: Rows, each: int) -> int:
        """How many values of the shared latents one run takes, each of which counts for so many draws."""
        return max(1, self.max_elements // (numbers_per_datum(pair, rows) * max(1, len(rows)) * each))


def given_shared(pair: Pair, rows: Rows, shared: Values, how: Integration, *, seed: int) -> Conditional:
    """Log p(x_n | w) of every datum at S values of the shared latents.

    Args:
        pair: the pair.
        rows: N rows with all that the model observes.
        shared: values of the shared latents by site, (S, ...).
        how: latents of single data are integrated out.
        seed: of their draws.

    Raises:
        ValueError: the guide is asked for and cannot propose.
    """
    held = {name: value.to(pair.device) for name, value in shared.items()}
    way = _way(pair, rows.batch(), held, how.local)
    if way in ("exact", "sum"):
        return _exactly(pair, rows, held, how, way, seed)
    return _by_draws(pair, rows, held, how, way, seed)


def local_latents(pair: Pair) -> frozenset[str]:
    """The latents inside the data plate that the guide has a posterior of."""
    return frozenset(name for name, site in pair.latents.items() if site.is_local)


def _of_rows(log_p: Tensor, num_rows: int) -> Tensor:
    """The last axis as that of the rows, also where nothing of the data stands in a plate."""
    return log_p.expand(*log_p.shape[:-1], num_rows)


# -- which way -------------------------------------------------------------------------------------------------------


def _way(pair: Pair, batch: Batch, held: Values, local: Local) -> str:
    if not local_latents(pair):
        return "exact"
    if _num_codes(pair):
        return "sum"
    if local == "prior":
        return "prior"
    why = follow_shared_draws(pair) or _fails(pair, batch, held)
    if why and local == "guide":
        raise ValueError(
            f"log p(x | shared latents): {type(pair.guide).__name__} cannot propose the latents of a datum at given "
            f"shared ones ({why}); local='prior' draws them from the model"
        )
    return "prior" if why else "guide"


def _num_codes(pair: Pair) -> int | None:
    """How many joint values a datum's latents have, where all are discrete and they are few."""
    sizes = [pair.latents[name].num_values for name in local_latents(pair)]
    if not sizes or None in sizes:
        return None
    count = prod(size for size in sizes if size is not None)
    return count if count <= FEW_CODES else None


def follow_shared_draws(pair: Pair) -> str:
    """Why the guide's local latents cannot be drawn at given shared ones: both follow from one draw. Empty if they can.

    So it is of joint autoguides, such as AutoMultivariateNormal.
    """
    for name, points in pair.sites.feeds.items():
        site = pair.sites.guide.get(name)
        if site is not None and not site.is_local and any(pair.latents[point].is_local for point in points):
            return f"{name!r} holds all latents at once"
    return ""


def _fails(pair: Pair, batch: Batch, held: Values) -> str:
    """Why the guide does not run on these rows: one with a posterior of each row of the fit runs on no others."""
    try:
        with pair.evaluating(0):
            run = pair.run(batch, values=_alone(pair, held, 0))
        scores = [score.log_prob for name, score in run.score_model().items() if name in local_latents(pair)]
    except (RuntimeError, ValueError, IndexError, KeyError) as error:  # what shapes that do not fit raise
        if is_out_of_memory(error):
            raise
        return str(error).partition("\n")[0]
    sizes = {score.shape[-1] for score in scores}
    return "" if sizes <= {batch.size or 1} else f"it has posteriors of {max(sizes)} rows, and these are {batch.size}"


# -- exactly ---------------------------------------------------------------------------------------------------------


def _exactly(pair: Pair, rows: Rows, held: Values, how: Integration, way: str, seed: int) -> Conditional:
    more = local_latents(pair) if way == "sum" else frozenset[str]()
    block = how.block(pair, rows, _num_codes(pair) or 1)
    parts = []
    for some, start in _pieces(held, block):
        with pair.evaluating(fold(seed, "given", start)):
            parts.append(_at(pair, rows.batch(), some, pair.sites.summed | more))
    log_p = _of_rows(torch.cat(parts), len(rows))
    return Conditional(log_p, torch.zeros_like(log_p), way)


def _pieces(held: Values, block: int) -> Iterator[tuple[Values, int]]:
    """At most so many values of the shared latents at a time, with the number of the first."""
    for place in slices(len(next(iter(held.values()))), block):
        yield {name: value[place] for name, value in held.items()}, place.start


def _at(pair: Pair, batch: Batch, held: Values, summed: frozenset[str]) -> Tensor:
    size = len(next(iter(held.values())))

    def score(inner: Values, count: int | None) -> Tensor:
        return density_inside(pair.runner.run_model(batch, inner, count, summed))

    def mapped(held: Values) -> Tensor:
        with validation(False):  # torch's checks of arguments branch on values, which vmap cannot
            return torch.vmap(lambda one: score(_shaped(pair, one), None)[0])(dict(held))

    if size > 1 and pair.vectorizes(batch):
        return score(_inward(pair, held), size)
    if size > 2 and _serves(pair, batch, held, score, mapped):
        return mapped(held)
    return torch.cat([score(_alone(pair, held, s), None) for s in range(size)])


def _serves(pair: Pair, batch: Batch, held: Values, score: Scores, mapped: Scores) -> bool:
    """Are values of the shared latents under ``vmap`` what they are one by one? Asked once for each shape of data."""

    def agrees() -> bool:
        few = {name: value[:2] for name, value in held.items()}
        try:
            together = mapped(few)
            alone = torch.cat([score(_alone(pair, few, s), None) for s in range(2)])
        except NOT_UNDER_VMAP as error:
            if is_out_of_memory(error):
                raise
            return False
        return torch.allclose(together, alone, rtol=1e-4, atol=1e-5, equal_nan=True)

    return bool(pair.runner.checked("mapped, given shared latents", batch, lambda runs, batch: agrees()))


def density_inside(run: Execution) -> Tensor:
    """Log p of all that stands inside the data plate, (S, B) float64, on the CPU."""
    return _sum([score for score in run.score_model().values() if score.local])


def density_outside(run: Execution) -> Tensor:
    """Log p of all that stands outside of it, (S,) float64, on the CPU."""
    return _sum([score for score in run.score_model().values() if not score.local])


def _sum(scores: Sequence[SiteScore]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for score in scores:
        total = total + score.log_prob.detach().to("cpu", torch.float64)  # which not every device has
    return total


def _inward(pair: Pair, held: Values) -> dict[str, Tensor]:
    """Values (S, ...) in Pyro's shape, with the dimension of particles."""
    return {name: inward(value, pair.sites.model[name], pair.layout) for name, value in held.items()}


def _shaped(pair: Pair, one: Values) -> dict[str, Tensor]:
    """One value of each in Pyro's shape."""
    return {name: without_particles(value, pair.sites.model[name], pair.layout) for name, value in one.items()}


def _alone(pair: Pair, held: Values, s: int) -> dict[str, Tensor]:
    return _shaped(pair, {name: value[s] for name, value in held.items()})


# -- by draws --------------------------------------------------------------------------------------------------------


def _by_draws(pair: Pair, rows: Rows, held: Values, how: Integration, way: str, seed: int) -> Conditional:
    wide = way == "guide" and _own_widths(pair)
    counts = draws_by_width(how.num_local, len(how.widths)) if wide else (how.num_local,)
    proposal, batch, found = _Proposal(way == "guide", counts, how.widths), rows.batch(), []
    for some, start in _pieces(held, how.block(pair, rows, how.num_local)):
        weights = [
            _drawn(pair, batch, some, proposal, which, fold(seed, "local", which, start))
            for which in range(len(counts))
        ]
        found.append(_mean_weight(_of_rows(torch.cat(weights, 1), len(rows))))
    log_p, variance = (torch.cat(column) for column in zip(*found, strict=True))
    return Conditional(log_p, variance, way)


def _own_widths(pair: Pair) -> frozenset[str]:
    """The guide's sites of single data that have a wider twin."""
    return frozenset(name for name in pair.sites.widenable if pair.sites.guide[name].is_local)


@dataclass(frozen=True)
class _Proposal:
    """Who draws the local latents: the guide, a number of draws at each width, or the model."""

    of_guide: bool
    counts: tuple[int, ...]
    widths: Sequence[float]


def _drawn(pair: Pair, batch: Batch, held: Values, proposal: _Proposal, which: int, seed: int) -> Tensor:
    """Log weights of local latents that one part of the proposal draws, (S, L, N)."""
    counts, widths = proposal.counts, proposal.widths
    count, size = counts[which], len(next(iter(held.values())))
    copies = {name: value.repeat_interleave(count, 0) for name, value in held.items()}

    def weights(inner: Values, particles: int | None) -> Tensor:
        if not proposal.of_guide:
            return _likelihood(pair, batch, inner, particles)
        with DrawWider(_own_widths(pair), widths[which]) if which else nullcontext():
            run = pair.run(batch, num_particles=particles, values=inner)
        log_q = torch.stack([log_q_at(pair, run, width, local=True) for width in widths[: len(counts)]])
        log_p = density_inside(run)
        return weigh(log_p, log_q.expand(len(counts), *log_p.shape), counts)[0]

    with pair.evaluating(seed):
        if pair.vectorizes(batch):
            found = weights(_inward(pair, copies), size * count)
            found = found.expand(size * count, found.shape[-1])
        else:
            found = torch.cat([weights(_alone(pair, copies, s), None) for s in range(size * count)])
    return found.unflatten(0, (size, count))


def _likelihood(pair: Pair, batch: Batch, held: Values, particles: int | None) -> Tensor:
    """Log p(x_n | z_n, w) at a z_n that the model draws: the weight of a draw of the prior, (S, N).

    Summed latents on which z_n hangs are drawn before it, since a sum over them would hold its density too.
    """
    run, mine = pair.runner.run_model(batch, held, particles), local_latents(pair)
    if run.summed and any(not mine.isdisjoint(part.names) for part in run.components()):
        run, mine = pair.runner.run_model(batch, held, particles, ()), mine | pair.sites.summed
    return _sum([score for name, score in run.score_model().items() if score.local and name not in mine])


def log_q_at(pair: Pair, run: Execution, width: float, *, local: bool) -> Tensor:
    """Log q at a width of the guide's sites inside the data plate, (S, B), or of those outside, (S,); float64."""
    return _sum([score for score in guide_scores(pair, run, width).values() if score.local == local])


def _mean_weight(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the mean weight over L draws, and its relative variance: (S, L, N) -> (S, N) each."""
    top = finite(log_w.amax(1, keepdim=True))
    w = (log_w - top).exp()
    mean = w.mean(1)
    variance = w.var(1) / (log_w.shape[1] * mean.square())
    log_p = log_w.logsumexp(1) - math.log(log_w.shape[1])
    return log_p, torch.where(mean > 0, variance, torch.zeros_like(variance))
