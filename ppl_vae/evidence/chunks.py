"""How a large estimate is cut into runs of the pair that fit into memory: over rows first, then over draws.

Rows are cut first, so that an encoder sees each datum once. Draws of one datum never depend on another datum,
and every run has noise of its own, so the cut changes no distribution. With latents shared by all data, or a
plate of a fixed size, rows stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppl_vae.data.rows import Rows
from ppl_vae.data.source import whole
from ppl_vae.pair.blocks import MAX_ELEMENTS, numbers_per_datum, slices, takes_single_rows

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["MAX_ELEMENTS", "Plan", "numbers_per_datum", "resolution_of", "slices"]


@dataclass(frozen=True)
class Plan:
    """How many rows and how many draws go into one run.

    Attributes:
        rows: rows of one run; None leaves them whole and joins them, as latents shared by all data do.
        draws: draws of one run.
    """

    rows: int | None
    draws: int

    @classmethod
    def of(cls, pair: Pair, rows: Source, num_samples: int, max_elements: int) -> Plan:
        """Fit ``num_samples`` draws of all rows into runs of ``max_elements`` numbers (or of one draw)."""
        if num_samples < 1:
            raise ValueError(f"evidence: at least one draw is required, got num_samples={num_samples}")
        if max_elements < 1:
            raise ValueError(f"evidence: max_elements must be positive, got {max_elements}")
        pair.initialize(rows)
        cells = max(1, max_elements // numbers_per_datum(pair, rows))
        some = max(1, cells // num_samples)
        if some < len(rows) and takes_single_rows(pair, rows):
            return cls(some, min(num_samples, cells))
        joined = pair.has_global_latents or not len(rows)
        return cls(None if joined else len(rows), min(num_samples, max(1, cells // max(1, len(rows)))))

    def row_chunks(self, rows: Source) -> Iterator[tuple[slice, Rows]]:
        """The pieces of the rows, each with its place in the whole."""
        if self.rows is None:
            yield slice(0, len(rows)), whole(rows)
            return
        for place in slices(len(rows), self.rows):
            yield place, rows.take(place)


def resolution_of(pair: Pair) -> float:
    """The relative error of log densities in the pair's precision: a hundred roundings, at least 1e-9."""
    return max(1e-9, 100 * torch.finfo(pair.dtype).eps)
