"""What an estimator of log p(x) is, and the one loop that those made of importance weights share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import Plan, resolution_of, slices
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import join, summarize

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Draws, Pair

__all__ = ["Estimator", "estimate_from_weights"]


@runtime_checkable
class Estimator(Protocol):
    """A way to estimate log p(x) of a pair.

    Implementing a new one:

    - a frozen dataclass whose fields are its settings; its ``repr`` names it in reports;
    - ``estimate`` returns an :class:`Evidence` with (N,) values, or () for a pair with latents shared by all data;
    - its error bars must cover the exact log p(x) of the linear-Gaussian model: one entry in the tests' table.
    """

    def estimate(self, pair: Pair, rows: Rows, seed: int, *, max_elements: int) -> Evidence:
        """Estimate log p(x) of the rows, in runs of at most ``max_elements`` numbers."""
        ...


Draw = Callable[["Rows", int, int], "Draws"]
"""(rows, number of draws, seed) -> scored draws."""


def estimate_from_weights(
    draw: Draw, pair: Pair, rows: Rows, *, num_samples: int, seed: int, max_elements: int, name: str
) -> Evidence:
    """Average weights p(x, z) / q(z) of independent draws, a chunk of rows at a time.

    Beside one run, the log weights of a chunk are kept, 8 K bytes a row: k-hat needs them all at once.
    """
    plan, resolution = Plan.of(pair, rows, num_samples, max_elements), resolution_of(pair)
    parts = []
    for place, chunk in plan.row_chunks(rows):
        weights = []
        for block in slices(num_samples, plan.draws):
            count = block.stop - block.start
            drawn = draw(chunk, count, fold(seed, name, place.start, block.start)).log_weight
            weights.append(drawn.expand(count, *drawn.shape[1:]))  # without latents all draws are one
        parts.append(summarize(torch.cat(weights), name, resolution=resolution))
    return parts[0] if plan.rows is None else join(parts)
