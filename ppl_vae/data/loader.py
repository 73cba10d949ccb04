"""Batches of a torch ``DataLoader``: its own, in an order of (seed, epoch), each read once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.batches import Batches
from ppl_vae.data.digest import checksums
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.data.source import Source

__all__ = ["LoaderBatches"]


class LoaderBatches(Batches):
    """A torch ``DataLoader``: its own batches, shuffled from (seed, epoch).

    Args:
        loader: over a data set with a length.
        place: makes rows on the device of what the loader gives, and of ``name=``, which errors call it.
    """

    def __init__(self, loader: DataLoader[Any], place: Callable[..., Source]) -> None:
        try:
            chosen = loader.dataset if loader.batch_size is None else loader.sampler  # a sampler may leave rows out
            self.num_data, self.per_epoch = len(chosen), len(loader)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(
                "fit: a DataLoader over a data set with a length is required, and with rows by number, got one over "
                f"the iterable {type(loader.dataset).__name__}, whose rows can be neither shuffled from a seed nor "
                "found again; give it __len__ and __getitem__ (a map-style Dataset), or collect the rows in a tensor"
            ) from None
        _require_all_rows(loader)
        self.loader, self._place = loader, place
        self._first: tuple[int, Batch] | None = None

    def at(self, seed: int, epoch: int, position: int) -> Batch:
        """One batch, found by its place; the very first is kept, for a run looks at it before it begins."""
        if self._first is not None and (seed, epoch, position) == (self._first[0], 0, 0):
            return self._first[1]
        batch = next(self.epoch(seed, epoch, position))
        if (epoch, position) == (0, 0):
            self._first = seed, batch
        return batch

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's batches of an epoch from position ``start``.

        The rows of those before it are not read where the loader takes them by number, in this process; else they are
        read and dropped, with a warning.
        """
        key = fold(seed, "permutation", epoch)
        for own in (self.loader.generator, getattr(self.loader.sampler, "generator", None)):
            if own is not None:
                own.manual_seed(key)
        read = self._skipping if start and self._can_skip() else self._reading
        yield from read(key, start)

    def fingerprint(self, seed: int = 0) -> dict[str, Any]:
        """What a resumed run must find again: lengths, the rows of the first batch, and how the loader chooses rows.

        No more of the rows is compared: whatever else a data set makes of a number, nobody has seen it yet.
        """
        first, own = self.at(seed, 0, 0), self.loader
        names = [type(part).__name__ for part in (own.sampler, own.batch_sampler)]
        sampler_seed = getattr(own.sampler, "seed", None)
        chosen = [*names, sampler_seed if isinstance(sampler_seed, int) else None, own.batch_size, own.drop_last]
        return {**super().fingerprint(seed), "rows": checksums(Rows(first.args, first.kwargs)), "sampler": chosen}

    def _reading(self, key: int, start: int) -> Iterator[Batch]:
        if start:
            warnings.warn(
                f"fit: {start} batches of the DataLoader are read and dropped, to go on in the middle of an epoch",
                stacklevel=2,
            )
        batches = None
        for position in range(self.per_epoch):
            with isolated_rng(fold(key, position)):  # a sampler draws its order here, a data set perhaps noise
                batches = iter(self.loader) if batches is None else batches
                found = next(batches, None)
            self._require(found, position)
            if position >= start:
                yield self._as_batch(found, position)

    def _skipping(self, key: int, start: int) -> Iterator[Batch]:
        """The same batches, but those before ``start`` are drawn by number alone."""
        chosen = None
        for position in range(self.per_epoch):
            with isolated_rng(fold(key, position)):
                chosen = iter(self._numbers()) if chosen is None else chosen
                numbers = next(chosen, None)
                self._require(numbers, position)
                found = self._fetched(numbers) if position >= start else None
            if position >= start:
                yield self._as_batch(found, position)

    def _can_skip(self) -> bool:
        return self.loader.num_workers == 0 and hasattr(self.loader.dataset, "__getitem__")

    def _numbers(self) -> DataLoader[Any]:
        """A loader of the numbers of the rows instead of the rows, which draws as the caller's does."""
        own = self.loader
        if own.batch_sampler is None:
            return DataLoader(_Numbers(), batch_size=None, sampler=own.sampler, generator=own.generator)
        return DataLoader(_Numbers(), batch_sampler=own.batch_sampler, collate_fn=list, generator=own.generator)

    def _fetched(self, numbers: Any) -> Any:
        own, dataset = self.loader, self.loader.dataset
        if own.batch_sampler is None:
            return own.collate_fn(dataset[numbers])
        several = getattr(dataset, "__getitems__", None)
        return own.collate_fn(several(numbers) if several is not None else [dataset[i] for i in numbers])

    def _require(self, found: Any, position: int) -> None:
        if found is None:
            raise ValueError(f"fit: the DataLoader's length is {self.per_epoch}, but it gave {position} batches")

    def _as_batch(self, found: Any, position: int) -> Batch:
        name = f"batch {position} of the DataLoader, data"  # the rows' own numbers are not known
        rows = self._place(tuple(found) if isinstance(found, list) else found, name=name)
        batch = rows.batch(num_data=self.num_data)
        return replace(batch, numbers=torch.full((batch.size or 0,), -1))


def _require_all_rows(loader: DataLoader[Any]) -> None:
    """Raise ValueError where the loader gives the share of one process of several (a ``DistributedSampler``)."""
    for sampler in (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)):
        replicas = getattr(sampler, "num_replicas", 1)
        if isinstance(replicas, int) and replicas > 1:
            raise ValueError(
                f"fit: a DataLoader over all rows is required, got one whose {type(sampler).__name__} gives 1 of "
                f"{replicas} parts: a fit is made by one process, and would be one of that part alone; leave the "
                "sampler out (shuffle=True)"
            )


class _Numbers(Dataset[Any]):
    """A data set whose rows are their own numbers."""

    def __getitem__(self, i: Any) -> Any:
        return i
