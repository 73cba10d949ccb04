"""The ELBO of each datum, measured: exact where few codes are all latents, else by draws of the guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, numbers_per_datum, slices
from ppl_vae.pair import pair_of
from ppl_vae.pair.table import few_codes, tabulate

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["elbo"]


def elbo(
    pair: Pair | Fitted, data: Any = None, *, num_samples: int = 64, seed: int = 0, max_elements: int = MAX_ELEMENTS
) -> Tensor:
    """The ELBO of each datum at beta = 1, averaged over draws: (N,) nats, float64; () with global latents.

    Exact, without draws, for discrete latents of at most 4096 joint values; one draw is exact for a flow.

    Args:
        pair: a Pair, or a Fit.
        data: N rows.
        num_samples: draws a datum.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    if (count := few_codes(pair)) is not None:
        return _exact(pair, rows, count, max_elements)
    num_samples = 1 if pair.is_exact else num_samples
    plan = Plan.of(pair, rows, num_samples, max_elements)
    found = []
    for place, chunk in plan.row_chunks(rows):
        total: Any = 0.0
        for piece in slices(num_samples, plan.draws):
            noise = fold(seed, "elbo", place.start, piece.start)
            total = total + pair.draw(chunk, piece.stop - piece.start, seed=noise).log_weight.sum(0)
        found.append(total / num_samples)
    return torch.cat(found) if found[0].dim() else found[0]


def _exact(pair: Pair, rows: Source, num_codes: int, max_elements: int) -> Tensor:
    some = max(1, max_elements // (num_codes * numbers_per_datum(pair, rows)))
    with pair.evaluating(0):
        parts = [tabulate(pair, rows.take(place).batch()).elbo for place in slices(len(rows), some)]
    return torch.cat(parts).double().cpu()
