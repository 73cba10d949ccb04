"""Where chains at a posterior begin: weighted draws of the guide, as many as there are chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.evidence.weighing import weighted_draws

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Pair

__all__ = ["near_posterior"]

FOR_EACH = 64
"""Weighted draws for each chain."""


def near_posterior(
    pair: Pair, rows: Rows, count: int, seed: int, *, max_elements: int = MAX_ELEMENTS
) -> dict[str, Tensor]:
    """Latents by site, (count, N, ...) or (count, ...): near the posterior where the guide is."""
    found = weighted_draws(pair, rows, FOR_EACH * count, seed=seed, max_elements=max_elements)
    return found.resample(count, seed=fold(seed, "chosen"))
