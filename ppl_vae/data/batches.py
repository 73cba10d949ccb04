"""Mini-batches in an order that is a function of (seed, epoch): nothing to save, nothing to restore."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ppl_vae._random import fold, generator, isolated_rng
from ppl_vae.data.digest import checksums, rows_digest
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.data.source import Source

LAST_BATCH = ("keep", "drop", "even")

Transform = Callable[[Tensor], Tensor]


class Batches(ABC):
    """A source of mini-batches: ``num_data`` rows in ``per_epoch`` batches."""

    num_data: int
    per_epoch: int

    @property
    def rows(self) -> Source | None:
        """All rows, as the pair is given them; None where they are not to be had as a whole."""
        return None

    @abstractmethod
    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in its order, from position ``start``."""

    def at(self, seed: int, epoch: int, position: int) -> Batch:
        """One batch, found by its place."""
        return next(self.epoch(seed, epoch, position))

    def first_rows(self, count: int, seed: int) -> Rows:
        """Some rows to look at, at most ``count``, the same in every epoch: those of the first batch."""
        batch = self.at(seed, 0, 0)
        return Rows(batch.args, batch.kwargs, batch.index, batch.numbers).take(slice(0, count))

    def fingerprint(self, seed: int = 0) -> dict[str, Any]:
        """What a resumed run must find again; ``seed`` is that of the run."""
        return {"num_data": self.num_data, "batches_per_epoch": self.per_epoch, "rows": []}


class SourceBatches(Batches):
    """Rows of a source, in an order of (seed, epoch).

    Args:
        source: N rows; those in memory already lie on the device, and are indexed there.
        batch_size: B; None (or B >= N) gives all rows at once, in their own order.
        with_index: give each batch its row numbers.
        last_batch: what becomes of the N mod B rows that are over at the end of an epoch: "keep" makes a smaller batch
            of them; "drop" leaves them out (others in each epoch); "even" makes as many batches as "keep", whose
            sizes differ by at most one row, so that none is so small that batch normalization fails on it.
    """

    def __init__(
        self, source: Source, batch_size: int | None, *, with_index: bool = False, last_batch: str = "keep"
    ) -> None:
        if batch_size is not None:
            is_whole = hasattr(batch_size, "__index__") and not isinstance(batch_size, bool)
            if not is_whole or batch_size < 1:
                raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size!r}")
            batch_size = operator.index(batch_size)
        if last_batch not in LAST_BATCH:
            raise ValueError(f"last_batch must be one of {', '.join(map(repr, LAST_BATCH))}, got {last_batch!r}")
        self.source, self.num_data, self.with_index, self.last_batch = source, len(source), with_index, last_batch
        whole = batch_size is None or batch_size >= len(source)
        self.batch_size = None if whole else batch_size
        self.per_epoch = self._count()
        tensors = (*source.args, *source.kwargs.values()) if isinstance(source, Rows) else ()
        self._device = next((t.device for t in tensors), None)
        self._order: tuple[tuple[int, int], Tensor] | None = None

    @property
    def rows(self) -> Source | None:
        """The source."""
        return self.source

    def _count(self) -> int:
        if self.batch_size is None:
            return 1
        return self.num_data // self.batch_size if self.last_batch == "drop" else -(-self.num_data // self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: a permutation drawn from (seed, epoch), cut into pieces."""
        for position in range(start, self.per_epoch):
            yield self.at(seed, epoch, position)

    def at(self, seed: int, epoch: int, position: int) -> Batch:
        """One batch, found by its place."""
        if self.batch_size is None:
            return self._whole()
        index = self._permutation(seed, epoch)[self._place(position)]
        rows = self.source.take(index)
        # N rows are stood for, also where some are dropped: which ones is random, so that the mean is that of all.
        return Batch(rows.args, rows.kwargs, rows.index if self.with_index else None, self.num_data, rows.index)

    def _place(self, position: int) -> slice:
        if self.last_batch != "even":
            return slice(position * self.batch_size, (position + 1) * self.batch_size)  # type: ignore[operator]
        first, last = (i * self.num_data // self.per_epoch for i in (position, position + 1))
        return slice(first, last)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch, drawn once."""
        if self._order is None or self._order[0] != (seed, epoch):
            order = torch.randperm(self.num_data, generator=generator(seed, "permutation", epoch))
            self._order = (seed, epoch), order if self._device is None else order.to(self._device)
        return self._order[1]

    def first_rows(self, count: int, seed: int) -> Rows:
        """The first rows."""
        return self.source.take(slice(0, count))

    def fingerprint(self, seed: int = 0) -> dict[str, Any]:
        """What a resumed run must find again; for ``rows``, see :func:`~ppl_vae.data.digest.rows_digest`."""
        with isolated_rng(fold(seed, "fingerprint"), self._device):  # a data set may draw noise
            few = self.source.take(slice(0, 256)) if self.num_data else Rows()
            rows = rows_digest(self.source)
        return {
            **super().fingerprint(seed),
            "batch_size": self.batch_size,
            **({} if self.last_batch == "keep" else {"last_batch": self.last_batch}),
            "first_rows": checksums(few),
            "rows": rows,
        }

    def _whole(self) -> Batch:
        whole = self.source.batch()
        index = torch.arange(self.num_data, device=self._device) if self.with_index and self.num_data else None
        return Batch(whole.args, whole.kwargs, index, self.num_data or None)


class TransformedBatches(Batches):
    """Batches whose first tensor passes through a random transform, on the step's own noise."""

    def __init__(self, source: Batches, transform: Transform) -> None:
        self.source, self.transform = source, transform
        self.num_data, self.per_epoch = source.num_data, source.per_epoch

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The source's batches; the noise of the transform is a function of (seed, epoch, position)."""
        for position, batch in enumerate(self.source.epoch(seed, epoch, start), start):
            tensors: dict[Any, Tensor] = {**dict(enumerate(batch.args)), **batch.kwargs}
            first = next(iter(tensors))  # the first tensor, by its place or by its name
            with isolated_rng(fold(seed, "transform", epoch, position), tensors[first].device):
                tensors[first] = self.transform(tensors[first])
            args = tuple(tensors.pop(i) for i in range(len(batch.args)))
            yield Batch(args, tensors, batch.index, batch.num_data, batch.numbers)

    def fingerprint(self, seed: int = 0) -> dict[str, Any]:
        """That of the source, and the transform's name."""
        name = getattr(self.transform, "__qualname__", type(self.transform).__qualname__)
        return {**self.source.fingerprint(seed), "transform": name}


def dynamic_binarization(x: Tensor) -> Tensor:
    """Draw every pixel anew from Bernoulli(x), x in [0, 1], whenever a batch is made.

    Source: Salakhutdinov, Murray, "On the quantitative analysis of deep belief networks", 2008.
    """
    return torch.bernoulli(x)
