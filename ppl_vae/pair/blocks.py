"""How an evaluation of many rows and draws is cut: into blocks, each a run with noise of its own.

The sizes of a block follow from those of a datum alone, and its noise from the numbers of its rows and draws. So what
is drawn for a row depends neither on memory nor on how many rows are asked for at once, if whole blocks are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ppl_vae._random import fold
from ppl_vae.data.rows import Rows
from ppl_vae.data.source import whole
from ppl_vae.pair.checks import is_out_of_memory

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair.pair import Pair

__all__ = ["MAX_ELEMENTS", "Blocks", "numbers_per_datum", "slices", "takes_single_rows"]

MAX_ELEMENTS = 1 << 21
"""Numbers that one run of a pair may handle: latents and data of all draws; what networks keep is extra."""
DRAWS = 32
"""Draws of a block, where many are made."""


def slices(total: int, size: int) -> Iterator[slice]:
    """Cut ``range(total)`` into pieces of at most ``size``.

    >>> list(slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def numbers_per_datum(pair: Pair, rows: Source) -> int:
    """Latents and data of one datum and one draw, counted as numbers."""
    latents = sum(prod(site.event_shape) for site in pair.latents.values())
    data = sum(prod(column.shape) for column in rows.columns)
    return max(1, latents + data)


def takes_single_rows(pair: Pair, rows: Source) -> bool:
    """Can rows be evaluated in pieces? Not with a plate of fixed size, nor an autoguide set up for N rows."""
    if pair.has_global_latents or len(rows) < 3:
        return not pair.has_global_latents
    try:
        found = pair.draw(rows.take(slice(0, 2)), 1).log_weight
    except (RuntimeError, ValueError, IndexError, KeyError) as error:  # what shapes that do not fit raise
        if is_out_of_memory(error):
            raise
        return False
    return found.shape == (1, 2)


@dataclass(frozen=True)
class Blocks:
    """Blocks of rows, each cut into blocks of draws.

    Attributes:
        rows: rows of a block; None leaves them whole.
        draws: draws of a block.
    """

    rows: int | None
    draws: int

    @classmethod
    def of(cls, pair: Pair, rows: Source, num_draws: int) -> Blocks:
        """Those of so many draws of each of these rows."""
        draws = min(num_draws, DRAWS)
        size = max(1, MAX_ELEMENTS // (numbers_per_datum(pair, rows) * draws))
        whole = size >= len(rows) or not takes_single_rows(pair, rows)
        return cls(None if whole else size, draws)

    def of_rows(self, rows: Source) -> Iterator[tuple[int, Rows]]:
        """The blocks of the rows, with the number of the first row of each."""
        first = 0 if rows.index is None or not len(rows) else int(rows.index[0])
        if self.rows is None:
            yield first, whole(rows)
            return
        for place in slices(len(rows), self.rows):
            yield first + place.start, rows.take(place)

    def of_draws(self, num_draws: int, *noise: int | str) -> Iterator[tuple[int, int]]:
        """How many draws each run makes, with the seed of its noise; ``noise`` says what else it is a function of."""
        for place in slices(num_draws, self.draws):
            yield place.stop - place.start, fold(0, *noise, place.start)
