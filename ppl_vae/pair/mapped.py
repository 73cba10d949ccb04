"""Many draws of a pair that has no room for a plate of them: runs of one draw each, made one by ``torch.vmap``.

A model that says ``x @ w`` has no axis for draws, and runs of its own for each take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.distributions import widened
from ppl_vae.pair import scoring
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.draws import Draws, LogProb
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.fixed_noise import NOT_UNDER_VMAP, Place, laws_of
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.points import is_point
from ppl_vae.pair.scope import validation

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

__all__ = ["DrawWider", "draws_of_many"]

More = Callable[[Execution, Draws], Tensor]


def draws_of_many(pair: Pair, batch: Batch, count: int, more: More, *, width: float = 1.0) -> tuple[Draws, Tensor]:
    """Scored draws of the guide, and what ``more`` says of each run and its draws, (..., S, N) or (..., S).

    They are made in one run where the pair allows it, as a plate or, of a guide of normal draws, under ``torch.vmap``;
    else one by one. Call it inside the pair's ``evaluating``.

    Args:
        pair, batch: what is run.
        count: S.
        more: a function of a run and its draws.
        width: what the spread of the latents that have a wider twin is multiplied by.
    """
    if count > 1 and not pair.vectorizes(batch) and _serves(pair, batch):
        return _mapped(pair, batch, count, more, width)
    with DrawWider(pair.sites.widenable, width) if width != 1.0 else nullcontext():
        runs = pair.runs(batch, count)
    draws = [scoring.draws_of(pair, run) for run in runs]
    said = [more(run, drawn) for run, drawn in zip(runs, draws, strict=True)]
    return Draws.stack(draws), torch.cat(said, -draws[0].log_weight.dim())


class DrawWider(Messenger):
    """Draw the named sites from their wider twins; a site keeps its distribution, and so the guide's score."""

    def __init__(self, names: Collection[str], width: float) -> None:
        super().__init__()
        self.names, self.width = names, width

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.names or msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        twin = widened(msg["fn"], self.width)
        msg["value"], msg["done"] = (msg["fn"] if twin is None else twin).sample(), True


def _mapped(pair: Pair, batch: Batch, count: int, more: More, width: float = 1.0) -> tuple[Draws, Tensor]:
    """Noise is handed to the runs, for torch's own distributions draw none under ``vmap``."""
    observed: dict[str, frozenset[str]] = {}

    def one(noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Tensor]:
        with Place(noise, as_noise=True, lead=0):
            run = pair.run(batch)
        drawn = scoring.draws_of(pair, run)
        observed.update(p=drawn.log_p.observed, q=drawn.log_q.observed)
        return drawn.values, dict(drawn.log_p), dict(drawn.log_q), more(run, drawn)

    noise = {
        name: torch.randn(count, law.noise_size, dtype=pair.dtype, device=pair.device)
        * (width if name in pair.sites.widenable else 1.0)
        for name, law in laws_of(pair, batch).items()
    }
    with validation(False):  # torch's checks of arguments branch on values, which vmap cannot
        values, log_p, log_q, said = torch.vmap(one, randomness="same")(noise)
    joint = pair.has_global_latents
    draws = Draws(
        {name: value.squeeze(1) for name, value in values.items()},
        LogProb({name: value.squeeze(1) for name, value in log_p.items()}, observed["p"], joint=joint),
        LogProb({name: value.squeeze(1) for name, value in log_q.items()}, observed["q"], joint=joint),
    )
    place = said.dim() - 1 - draws.log_weight.dim()  # of the one draw that each run has made
    return draws, said.movedim(0, place).squeeze(place + 1)


def _serves(pair: Pair, batch: Batch) -> bool:
    """Are mapped draws what draws one by one are? Asked once for each shape of data, of pairs that do not vectorize."""
    return bool(pair.runner.checked("mapped", batch, lambda runs, batch: _agrees(pair, batch)))


def _agrees(pair: Pair, batch: Batch) -> bool:
    axis = pair.layout.axis
    if pair.sites.subsampled or (axis is not None and axis.subsampled):
        return False  # draws of a datum are weighed together, so all are of the same rows
    try:
        trace = poutine.trace(pair.runner.guide).get_trace(batch)
        drawn = [n for n, s in sample_sites(trace) if not s["is_observed"] and has_density(s) and not is_point(s["fn"])]
        if not drawn or set(drawn) != set(laws_of(pair, batch)):
            return False
        found, together = _mapped(pair, batch, 2, lambda run, drawn: drawn.log_p.total)
        given = pair.as_values(found.values)
        alone = scoring.scored(pair, batch, given, lambda inner, n: scoring.score_model(pair, batch, inner, n)).total
    except NOT_UNDER_VMAP as error:
        if is_out_of_memory(error):
            raise
        return False
    return torch.allclose(together, alone, rtol=1e-4, atol=1e-5, equal_nan=True)
