"""Mini-batches in an order that is a function of (seed, epoch): nothing to save, nothing to restore."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ppl_vae._random import fold, generator, isolated_rng
from ppl_vae.data.rows import Batch, Rows

Transform = Callable[[Tensor], Tensor]


class Batches(ABC):
    """A source of mini-batches: ``num_data`` rows in ``per_epoch`` batches."""

    num_data: int
    per_epoch: int

    @abstractmethod
    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in its order, from position ``start``."""

    def at(self, seed: int, epoch: int, position: int) -> Batch:
        """One batch, found by its place."""
        return next(self.epoch(seed, epoch, position))

    def first_rows(self, count: int, seed: int) -> Rows:
        """Some rows to look at, at most ``count``, the same in every epoch: those of the first batch."""
        batch = self.at(seed, 0, 0)
        return Rows(batch.args, batch.kwargs, batch.index).take(slice(0, count))

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        return {"num_data": self.num_data, "batches_per_epoch": self.per_epoch}


class InMemoryBatches(Batches):
    """Rows that lie on the device and are indexed there; the last batch of an epoch may be smaller.

    Args:
        rows: the data, already on the device.
        batch_size: B; None (or B >= N) gives all rows at once, in their own order.
        with_index: give each batch its row numbers.
    """

    def __init__(self, rows: Rows, batch_size: int | None, *, with_index: bool = False) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size}")
        self.rows, self.num_data, self.with_index = rows, len(rows), with_index
        whole = batch_size is None or batch_size >= len(rows)
        self.batch_size = None if whole else batch_size
        self.per_epoch = 1 if self.batch_size is None else -(-len(rows) // self.batch_size)
        self._device = next((t.device for t in (*rows.args, *rows.kwargs.values())), torch.device("cpu"))

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: a permutation drawn from (seed, epoch), cut into pieces."""
        if self.batch_size is None:
            if start < 1:
                yield self._whole()
            return
        order = torch.randperm(self.num_data, generator=generator(seed, "permutation", epoch)).to(self._device)
        for index in order.split(self.batch_size)[start:]:
            args = tuple(t.index_select(0, index) for t in self.rows.args)
            kwargs = {name: t.index_select(0, index) for name, t in self.rows.kwargs.items()}
            yield Batch(args, kwargs, index if self.with_index else None, self.num_data)

    def first_rows(self, count: int, seed: int) -> Rows:
        """The first rows."""
        return self.rows.take(slice(0, count))

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        few = self.rows.take(slice(0, 256))
        return {
            **super().fingerprint(),
            "batch_size": self.batch_size,
            "first_rows": [_checksum(tensor) for tensor in (*few.args, *few.kwargs.values())],
        }

    def _whole(self) -> Batch:
        index = torch.arange(self.num_data, device=self._device) if self.with_index and self.num_data else None
        return Batch(self.rows.args, self.rows.kwargs, index, self.num_data or None)


class LoaderBatches(Batches):
    """A torch ``DataLoader``: its own batches, shuffled from (seed, epoch)."""

    def __init__(self, loader: DataLoader[Any], place: Callable[[Any], Rows]) -> None:
        try:
            chosen = loader.dataset if loader.batch_size is None else loader.sampler  # a sampler may leave rows out
            self.num_data, self.per_epoch = len(chosen), len(loader)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(
                "fit: a DataLoader over a data set with a length is required, got an iterable one"
            ) from None
        self.loader, self._place = loader, place

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's batches of an epoch; those before ``start`` are read and dropped."""
        key, batches = fold(seed, "permutation", epoch), None
        for own in (self.loader.generator, getattr(self.loader.sampler, "generator", None)):
            if own is not None:
                own.manual_seed(key)
        for position in range(self.per_epoch):
            with isolated_rng(fold(key, position)):  # a sampler draws its order here, a data set perhaps noise
                batches = iter(self.loader) if batches is None else batches
                batch = next(batches, None)
            if batch is None:
                raise ValueError(f"fit: the DataLoader's length is {self.per_epoch}, but it gave {position} batches")
            if position >= start:
                rows = self._place(tuple(batch) if isinstance(batch, list) else batch)
                yield Batch(rows.args, rows.kwargs, None, self.num_data)


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
            yield Batch(args, tensors, batch.index, batch.num_data)

    def fingerprint(self) -> dict[str, Any]:
        """That of the source, and the transform's name."""
        name = getattr(self.transform, "__qualname__", type(self.transform).__qualname__)
        return {**self.source.fingerprint(), "transform": name}


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def dynamic_binarization(x: Tensor) -> Tensor:
    """Draw every pixel anew from Bernoulli(x), x in [0, 1], whenever a batch is made.

    Source: Salakhutdinov, Murray, "On the quantitative analysis of deep belief networks", 2008.
    """
    return torch.bernoulli(x)
