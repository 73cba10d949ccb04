"""The ELBO of each datum, measured: exact where few codes are all latents, else by draws of the guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, numbers_per_datum, slices
from ppl_vae.pair import pair_of
from ppl_vae.pair.scoring import weighted_bound
from ppl_vae.pair.table import few_codes, tabulate

if TYPE_CHECKING:
    from ppl_vae.data.rows import Batch, Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["elbo"]


def elbo(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    num_samples: int = 64,
    seed: int = 0,
    weighted: bool = False,
    max_elements: int = MAX_ELEMENTS,
) -> Tensor:
    """The ELBO of each datum at beta = 1, averaged over draws: (N,) nats, float64; () with global latents.

    Exact, without draws, for discrete latents of at most 4096 joint values; one draw is exact for a flow.

    Args:
        pair: a Pair, or a Fit.
        data: N rows.
        num_samples: draws a datum.
        seed: of the draws.
        weighted: each site's log p or log q times its weight (``poutine.scale``): what ``ELBO()`` maximizes, the
            column ``objective``. Else, as in the column ``elbo`` and in ``log_evidence``, the bound of the model
            without weights. The factor of a subsampled plate is no weight, and always counts.
        max_elements: how many numbers one run of the pair may handle; bounds memory.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    if (count := few_codes(pair)) is not None:
        return _exact(pair, rows, count, weighted, max_elements)
    num_samples = 1 if pair.is_exact else num_samples
    plan = Plan.of(pair, rows, num_samples, max_elements)
    found = []
    for place, chunk in plan.row_chunks(rows):
        total: Any = 0.0
        for piece in slices(num_samples, plan.draws):
            noise = fold(seed, "elbo", place.start, piece.start)
            total = total + _drawn(pair, chunk, piece.stop - piece.start, weighted, noise).sum(0)
        found.append(total / num_samples)
    return torch.cat(found) if found[0].dim() else found[0]


def _drawn(pair: Pair, rows: Rows, count: int, weighted: bool, seed: int) -> Tensor:
    """Log p - log q of draws, (S, n) or (S,); equal draws with weights and without."""
    if not weighted:
        return pair.draw(rows, count, seed=seed).log_weight
    batch = pair.as_batch(rows)
    with pair.evaluating(fold(seed, "draw")):
        return torch.cat([weighted_bound(pair, run) for run in pair.runs(batch, count)])


def _exact(pair: Pair, rows: Source, num_codes: int, weighted: bool, max_elements: int) -> Tensor:
    some = max(1, max_elements // (num_codes * numbers_per_datum(pair, rows)))

    def bound(batch: Batch) -> Tensor:
        if not weighted:
            return tabulate(pair, batch).elbo
        return weighted_bound(pair, pair.run(batch, enumerated=pair.latents, in_pieces=False))[0]

    with pair.evaluating(0):
        parts = [bound(rows.take(place).batch()) for place in slices(len(rows), some)]
    return torch.cat(parts).double().cpu()
