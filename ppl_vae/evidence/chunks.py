"""How a large estimate is cut into runs of the pair that fit into memory: over rows first, then over draws.

Rows are cut first, so that an encoder sees each datum once. Draws of one datum never depend on another datum,
and every run has noise of its own, so the cut changes no distribution. With latents shared by all data, or a
plate of a fixed size, rows stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from ppl_vae.data.rows import Rows

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["MAX_ELEMENTS", "Plan", "numbers_per_datum", "resolution_of", "slices"]

MAX_ELEMENTS = 1 << 21
"""Numbers that one run of a pair may handle: latents and data of all draws; what networks keep is extra."""


def slices(total: int, size: int) -> Iterator[slice]:
    """Cut ``range(total)`` into pieces of at most ``size``.

    >>> list(slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


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
        if some < len(rows) and _takes_single_rows(pair, rows):
            return cls(some, min(num_samples, cells))
        joined = pair.has_global_latents or not len(rows)
        return cls(None if joined else len(rows), min(num_samples, max(1, cells // max(1, len(rows)))))

    def row_chunks(self, rows: Source) -> Iterator[tuple[slice, Rows]]:
        """The pieces of the rows, each with its place in the whole."""
        if self.rows is None:
            yield slice(0, len(rows)), rows if isinstance(rows, Rows) else rows.take(slice(None))
            return
        for place in slices(len(rows), self.rows):
            yield place, rows.take(place)


def numbers_per_datum(pair: Pair, rows: Source) -> int:
    """Latents and data of one datum and one draw, counted as numbers."""
    latents = sum(prod(site.event_shape) for site in pair.latents.values())
    data = sum(prod(column.shape) for column in rows.columns)
    return max(1, latents + data)


def _takes_single_rows(pair: Pair, rows: Source) -> bool:
    """Can rows be evaluated in pieces? Not with a plate of fixed size, nor an autoguide set up for N rows."""
    if pair.has_global_latents or len(rows) < 3:
        return not pair.has_global_latents
    try:
        found = pair.draw(rows.take(slice(0, 2)), 1).log_weight
    except (RuntimeError, ValueError, IndexError, KeyError):  # what shapes that do not fit raise
        return False
    return found.shape == (1, 2)


def resolution_of(pair: Pair) -> float:
    """The relative error of log densities in the pair's precision: a hundred roundings, at least 1e-9."""
    return max(1e-9, 100 * torch.finfo(pair.dtype).eps)
