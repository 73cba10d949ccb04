"""Weighted draws of a pair: the guide proposes, and the guide with a wider spread beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, resolution_of
from ppl_vae.evidence.coincidence import Coincidence
from ppl_vae.evidence.importance import WIDTHS, parts_of, proposed
from ppl_vae.evidence.mixture import Weighed, weigh
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.evidence.weighted_draws import WeightedDraws
from ppl_vae.pair import pair_of

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Fitted, Pair

__all__ = ["weighted_draws"]

WHO = "weighted_draws"


def weighted_draws(
    pair: Pair | Fitted,
    data: Any = None,
    num_samples: int = 4000,
    *,
    widths: Sequence[float] = WIDTHS,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> WeightedDraws:
    """Draw from the guide and from the guide with a wider spread, and weigh the draws by the posterior.

    k-hat is of as many other draws. Where the guide is the posterior of all rows of a run, its own draws are taken
    alone, with equal weights.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them.
        num_samples: S, over all widths; all are held in memory.
        widths: of the guide's spread; the first is 1. See ``ImportanceWeighted``.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory beside the result.

    Returns:
        WeightedDraws with weights (S,), or (S, N) where each datum has latents of its own alone.

    Raises:
        ValueError: the guide is a point mass (``AutoDelta``): it has no density to weigh draws by; a plate draws a
            subsample; rows without what the model observes.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    pair.sites.require_density(WHO)
    pair.sites.require_whole_plates(WHO)
    plan = Plan.of(pair, rows, num_samples, max_elements)
    parts = [
        _of_chunk(pair, chunk, num_samples, widths, plan.draws, fold(seed, WHO, place.start))
        for place, chunk in plan.row_chunks(rows)
    ]
    say_of_weights(pair, WHO)
    return parts[0] if len(parts) == 1 else _joined(parts)


def _of_chunk(
    pair: Pair, rows: Rows, num_samples: int, widths: Sequence[float], block: int, seed: int
) -> WeightedDraws:
    counts, resolution = parts_of(pair, num_samples, widths), resolution_of(pair)
    values, weighed = _drawn(pair, rows, counts, widths, block, fold(seed, "draws"))
    if len(counts) > 1 and bool(weighed.is_posterior(resolution).all()):
        counts = (num_samples,)
        values, weighed = _drawn(pair, rows, counts, widths, block, fold(seed, "draws"))
    _, others = _drawn(pair, rows, counts, widths, block, fold(seed, "k-hat"), keep=False)
    coincide = weighed.coincide & others.coincide
    return WeightedDraws(values, weighed.log_w, others=others.log_w, resolution=resolution, coincide=coincide)


def _drawn(
    pair: Pair, rows: Rows, counts: Sequence[int], widths: Sequence[float], block: int, seed: int, *, keep: bool = True
) -> tuple[dict[str, Tensor], Weighed]:
    """Latents by site, unless they are not to be kept, and their weights."""
    values: dict[str, list[Tensor]] = {}
    weights, coincidence = [], Coincidence(pair)
    for drawn in proposed(pair, rows, counts, widths, block, (seed,)):
        coincidence.see(drawn.draws)
        weights.append(weigh(drawn.draws.log_p.total, drawn.log_q, counts))
        for name, value in drawn.draws.values.items() if keep else ():
            values.setdefault(name, []).append(value)
    log_w, log_h = (torch.cat(column) for column in zip(*weights, strict=True))
    weighed = Weighed(log_w, log_h, tuple(counts), coincidence.flags)
    return {name: torch.cat(parts) for name, parts in values.items()}, weighed


def _joined(parts: list[WeightedDraws]) -> WeightedDraws:
    """Draws of chunks of rows, as those of all: each datum has its own."""
    values = {name: torch.cat([part.values[name] for part in parts], 1) for name in parts[0].values}
    log_weight = torch.cat([part.log_weight for part in parts], 1)
    others = torch.cat([part.log_weight if part.others is None else part.others for part in parts], 1)
    coincide = torch.cat([part.coincide.expand(part.log_weight.shape[1]) for part in parts])
    return WeightedDraws(values, log_weight, others=others, resolution=parts[0].resolution, coincide=coincide)
