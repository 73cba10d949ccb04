"""Where a run stands in its data, and the one stream of batches that it reads."""

from __future__ import annotations

from collections.abc import Iterator

from ppl_vae.data.batches import Batches
from ppl_vae.data.rows import Batch

__all__ = ["Cursor", "Place"]

Place = tuple[int, int, int]
"""Steps made in all, epochs completed, batches of this epoch that have been used."""


class Cursor:
    """A place in the data: steps made, epochs completed, batches used of the present epoch.

    The batches of an epoch come from one stream, which is begun anew only where the place is changed by hand.
    """

    def __init__(self, batches: Batches, seed: int) -> None:
        self.batches, self.seed = batches, seed
        self.step = self.epoch = self.position = 0
        self._stream: Iterator[Batch] | None = None

    @property
    def place(self) -> Place:
        """Step, epoch, position."""
        return self.step, self.epoch, self.position

    def go_to(self, place: Place) -> None:
        """Stand elsewhere; what has been read ahead is dropped."""
        self.step, self.epoch, self.position = place
        self._stream = None

    def next(self) -> Batch:
        """The batch of the next step."""
        if self._stream is None:
            self._stream = self.batches.epoch(self.seed, self.epoch, self.position)
        try:
            return next(self._stream)
        except BaseException:
            self._stream = None  # a stream that has raised gives nothing more
            raise

    def again(self) -> Batch:
        """The batch of the next step, found by its place; the stream does not move."""
        return self.batches.at(self.seed, self.epoch, self.position)

    def advance(self) -> None:
        """A step has been made."""
        self.step, self.position = self.step + 1, self.position + 1

    @property
    def epoch_is_over(self) -> bool:
        """Has every batch of the epoch been used?"""
        return self.position >= self.batches.per_epoch

    def begin_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch, self.position, self._stream = self.epoch + 1, 0, None
