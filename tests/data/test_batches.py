"""Laws of mini-batches: their order is a function of (seed, epoch), and each row comes once an epoch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ppl_vae.data import Rows, dynamic_binarization
from ppl_vae.data.batches import Batches, SourceBatches, TransformedBatches
from ppl_vae.data.loader import LoaderBatches

N, B = 14, 4
X = torch.arange(N * 2.0).reshape(N, 2)
SIZES = [4, 4, 4, 2]


def numbers(batch: Any) -> list[int]:
    """Which rows a batch holds, read off the data."""
    x = batch.args[0] if batch.args else batch.kwargs["x"]
    return [int(v) // 2 for v in x[:, 0]]


def order(batches: Batches, seed: int, epoch: int, start: int = 0) -> list[list[int]]:
    return [numbers(batch) for batch in batches.epoch(seed, epoch, start)]


def loader(**options: Any) -> LoaderBatches:
    return LoaderBatches(DataLoader(TensorDataset(X), batch_size=B, **options), Rows.of)


class Named(Dataset):
    """A data set of dictionaries."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"x": X[i]}


SHUFFLED: dict[str, Callable[[], Batches]] = {
    "in memory": lambda: SourceBatches(Rows.of(X), B),
    "by name": lambda: SourceBatches(Rows.of({"x": X}), B),
    "loader": lambda: loader(shuffle=True),
    "loader with a generator": lambda: loader(shuffle=True, generator=torch.Generator()),
    "loader with a sampler": lambda: loader(sampler=RandomSampler(range(N))),
    "loader with a sampler's generator": lambda: loader(sampler=RandomSampler(range(N), generator=torch.Generator())),
    "loader of dictionaries": lambda: LoaderBatches(DataLoader(Named(), batch_size=B, shuffle=True), Rows.of),
    "transformed": lambda: TransformedBatches(SourceBatches(Rows.of(X), B), lambda x: x + 0.5 * torch.rand(())),
}
shuffled = pytest.mark.parametrize("kind", SHUFFLED)


@shuffled
def test_every_row_comes_once_an_epoch(kind):
    batches = SHUFFLED[kind]()
    assert (batches.num_data, batches.per_epoch) == (N, 4)
    for epoch in range(3):
        found = order(batches, 0, epoch)
        assert [len(rows) for rows in found] == SIZES
        assert sorted(chain.from_iterable(found)) == list(range(N))


@shuffled
def test_the_order_is_a_function_of_seed_and_epoch_alone(kind):
    batches, other = SHUFFLED[kind](), SHUFFLED[kind]()
    torch.manual_seed(1)
    first = order(batches, 3, 5)
    order(batches, 0, 0)
    torch.manual_seed(2)
    torch.rand(7)
    assert order(batches, 3, 5) == first
    assert order(other, 3, 5) == first


@shuffled
def test_another_seed_or_epoch_is_another_order(kind):
    batches = SHUFFLED[kind]()
    assert len({str(order(batches, seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    assert order(batches, 0, 0) != [list(range(0, 4)), list(range(4, 8)), list(range(8, 12)), [12, 13]]


@shuffled
def test_at_and_start_find_what_an_iteration_passes(kind):
    batches = SHUFFLED[kind]()
    whole = [b.args or tuple(b.kwargs.values()) for b in batches.epoch(2, 1)]
    for position, expected in enumerate(whole):
        found = batches.at(2, 1, position)
        assert torch.equal((found.args or tuple(found.kwargs.values()))[0], expected[0])
        rest = list(batches.epoch(2, 1, position))
        assert len(rest) == 4 - position
        assert torch.equal((rest[-1].args or tuple(rest[-1].kwargs.values()))[0], whole[-1][0])
    assert list(batches.epoch(2, 1, 4)) == []


@shuffled
def test_reading_leaves_the_callers_generator_alone(kind):
    batches = SHUFFLED[kind]()
    before = torch.get_rng_state()
    list(batches.epoch(0, 0))
    batches.at(0, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


@shuffled
def test_a_batch_stands_for_all_rows(kind):
    for batch in SHUFFLED[kind]().epoch(0, 0):
        assert batch.num_data == N
        assert batch.size == len(numbers(batch))


def test_a_loader_that_reads_its_order_from_the_global_stream_breaks_the_law():
    """Torch's samplers draw when the first batch is asked for: seeding around ``iter`` alone is not enough."""

    def careless(seed: int) -> list[list[int]]:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            batches = iter(DataLoader(TensorDataset(X), batch_size=B, shuffle=True))
        return [[int(v) // 2 for v in x[:, 0]] for (x,) in batches]

    torch.manual_seed(1)
    first = careless(3)
    assert careless(3) != first


# how the rows at the end of an epoch are dealt with


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 13, 14, 99])
def test_even_batches_differ_by_one_row_at_most(batch_size):
    batches = SourceBatches(Rows.of(X), batch_size, last_batch="even")
    found = order(batches, 0, 1)
    sizes = [len(rows) for rows in found]
    assert len(sizes) == batches.per_epoch == SourceBatches(Rows.of(X), batch_size).per_epoch
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert sorted(chain.from_iterable(found)) == list(range(N))


def test_what_is_dropped_is_dropped_at_random():
    batches = SourceBatches(Rows.of(X), B, last_batch="drop")
    epochs = [order(batches, 0, epoch) for epoch in range(200)]
    assert all([len(rows) for rows in epoch] == [4, 4, 4] for epoch in epochs)
    left_out = [set(range(N)) - set(chain.from_iterable(epoch)) for epoch in epochs]
    assert set().union(*left_out) == set(range(N))
    assert all(batch.num_data == N for batch in batches.epoch(0, 0))


def test_another_rule_for_the_last_batch_is_refused():
    with pytest.raises(ValueError, match="last_batch must be one of 'keep', 'drop', 'even', got 'skip'"):
        SourceBatches(Rows.of(X), B, last_batch="skip")


def test_the_usual_rule_leaves_old_fingerprints_as_they_were():
    assert "last_batch" not in SourceBatches(Rows.of(X), B).fingerprint()
    assert SourceBatches(Rows.of(X), B, last_batch="even").fingerprint()["last_batch"] == "even"


# a loader reads what is needed


class Counting(Dataset):
    """Rows that draw noise, and count how often one is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> torch.Tensor:
        self.read.append(i)
        return X[i] + torch.rand(())


LOADERS: dict[str, Callable[[Any], Any]] = {
    "shuffled": lambda rows: DataLoader(rows, batch_size=B, shuffle=True),
    "in order": lambda rows: DataLoader(rows, batch_size=B),
    "a generator": lambda rows: DataLoader(rows, batch_size=B, shuffle=True, generator=torch.Generator()),
    "a sampler with replacement": lambda rows: DataLoader(
        rows, batch_size=B, sampler=RandomSampler(rows, replacement=True, num_samples=N)
    ),
    "weights": lambda rows: DataLoader(rows, batch_size=B, sampler=WeightedRandomSampler([1.0] * N, N)),
    "batches of one's own": lambda rows: DataLoader(
        rows, batch_sampler=BatchSampler(RandomSampler(rows), batch_size=B, drop_last=True)
    ),
    "rows one by one": lambda rows: DataLoader(rows, batch_size=None, sampler=RandomSampler(range(N))),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_that_begins_in_mid_epoch_reads_the_rest_alone(kind):
    """The same bits, noise of the data set included, and none of the rows before."""
    rows = Counting()
    batches = LoaderBatches(
        LOADERS[kind](rows), lambda x, name: Rows.of(x if x.dim() > 1 else x.unsqueeze(0), name=name)
    )
    whole = [batch.args[0] for batch in batches.epoch(3, 2)]
    for start in range(1, len(whole)):
        rows.read.clear()
        rest = [batch.args[0] for batch in batches.epoch(3, 2, start)]
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
        assert len(rows.read) == sum(len(x) for x in whole[start:])


def test_the_first_batch_is_read_once_however_often_it_is_looked_at():
    rows = Counting()
    batches = LoaderBatches(DataLoader(rows, batch_size=B, shuffle=True), Rows.of)
    looks = [batches.at(0, 0, 0).args[0], batches.first_rows(2, 0).args[0], batches.at(0, 0, 0).args[0]]
    assert len(rows.read) == B
    assert torch.equal(looks[0], looks[2])
    assert torch.equal(looks[1], looks[0][:2])
    assert torch.equal(next(batches.epoch(0, 0)).args[0], looks[0])


def test_what_cannot_be_skipped_is_said():
    batches = LoaderBatches(DataLoader(Counting(), batch_size=B, num_workers=1), Rows.of)
    with pytest.warns(UserWarning, match="2 batches of the DataLoader are read and dropped"):
        assert len(list(batches.epoch(0, 0, 2))) == 2


# in memory


@pytest.mark.parametrize("batch_size", [None, N, N + 1])
def test_all_rows_at_once_keep_their_order(batch_size):
    batches = SourceBatches(Rows.of(X), batch_size)
    assert batches.per_epoch == 1
    assert order(batches, 0, 0) == order(batches, 5, 7) == [list(range(N))]
    assert list(batches.epoch(0, 0, 1)) == []


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 13])
def test_number_and_sizes_of_batches(batch_size):
    batches = SourceBatches(Rows.of(X), batch_size)
    sizes = [len(rows) for rows in order(batches, 0, 0)]
    assert len(sizes) == batches.per_epoch
    assert sum(sizes) == N
    assert set(sizes[:-1]) <= {batch_size}
    assert 0 < sizes[-1] <= batch_size


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_is_a_whole_number(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number, at least 1, got {batch_size}"):
        SourceBatches(Rows.of(X), batch_size)


@pytest.mark.parametrize("batch_size", [None, B])
def test_row_numbers_go_with_their_rows(batch_size):
    for batch in SourceBatches(Rows.of(X), batch_size, with_index=True).epoch(0, 0):
        assert batch.index.tolist() == numbers(batch)
    assert all(batch.index is None for batch in SourceBatches(Rows.of(X), batch_size).epoch(0, 0))


def test_parts_stay_together():
    rows = Rows.of((X, torch.arange(N)))
    for batch in SourceBatches(rows, B).epoch(0, 0):
        assert batch.args[1].tolist() == numbers(batch)


def test_no_data_are_one_batch():
    (batch,) = SourceBatches(Rows.of(None), None, with_index=True).epoch(0, 0)
    assert (batch.args, batch.index, batch.num_data) == ((), None, None)


FINGERPRINTS = {
    "fewer rows": SourceBatches(Rows.of(X[:12]), B),
    "other rows": SourceBatches(Rows.of(X + 1), B),
    "rows in another order": SourceBatches(Rows.of(X.flip(0)), B),
    "other batches, as many": SourceBatches(Rows.of(X), 5),
    "a transform": TransformedBatches(SourceBatches(Rows.of(X), B), dynamic_binarization),
}


@pytest.mark.parametrize("change", FINGERPRINTS)
def test_the_fingerprint_tells_batches_apart(change):
    mine = SourceBatches(Rows.of(X), B).fingerprint()
    assert SourceBatches(Rows.of(X.clone()), B).fingerprint() == mine
    assert FINGERPRINTS[change].fingerprint() != mine


def test_the_fingerprint_knows_batch_sizes_that_give_equally_many_batches():
    few, more = (SourceBatches(Rows.of(X), size) for size in (5, 6))
    assert few.per_epoch == more.per_epoch
    assert few.fingerprint() != more.fingerprint()


# loaders


def test_an_unshuffled_loader_keeps_its_order():
    assert order(loader(), 0, 0) == order(loader(), 1, 2) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def test_a_loader_may_drop_its_last_batch():
    batches = loader(drop_last=True)
    assert batches.per_epoch == 3
    assert [len(rows) for rows in order(batches, 0, 0)] == [4, 4, 4]


def test_a_sampler_says_how_many_rows_the_batches_stand_for():
    """The usual split of a data set by two samplers: N is that of the part, and so is the weight of the likelihood."""
    batches = loader(sampler=SubsetRandomSampler(range(6)))
    found = list(batches.epoch(0, 0))
    assert sorted(chain.from_iterable(map(numbers, found))) == list(range(6))
    assert {b.num_data for b in found} == {6}


def test_a_loader_with_batches_of_its_own():
    batches = LoaderBatches(DataLoader(TensorDataset(X), batch_sampler=[[0, 5], [7]]), Rows.of)
    assert order(batches, 0, 0) == [[0, 5], [7]]
    assert batches.per_epoch == 2


class Noisy(Dataset):
    """A data set that draws noise whenever a row is read."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> torch.Tensor:
        return X[i] + 0.1 * torch.rand(2)


def test_the_noise_of_a_data_set_is_a_function_of_its_place():
    batches = LoaderBatches(DataLoader(Noisy(), batch_size=B, shuffle=True), Rows.of)
    whole = [batch.args[0] for batch in batches.epoch(0, 1)]
    torch.rand(3)
    assert torch.equal(batches.at(0, 1, 2).args[0], whole[2])
    assert not torch.equal(batches.at(0, 2, 2).args[0], whole[2])


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0]


def test_an_endless_data_set_is_refused():
    with pytest.raises(ValueError, match="a DataLoader over a data set with a length is required"):
        LoaderBatches(DataLoader(Endless(), batch_size=B), Rows.of)


# transforms


@pytest.mark.parametrize("data", [X / 28, {"x": X / 28}, (X / 28, torch.arange(N))], ids=["tensor", "named", "tuple"])
def test_dynamic_binarization_is_reproducible_and_fresh(data):
    def draw(seed: int, epoch: int) -> list[torch.Tensor]:
        batches = TransformedBatches(SourceBatches(Rows.of(data), None, with_index=True), dynamic_binarization)
        return [(*b.args, *b.kwargs.values())[0] for b in batches.epoch(seed, epoch)]

    first = draw(0, 0)[0]
    assert set(first.unique().tolist()) <= {0.0, 1.0}
    torch.manual_seed(5)
    assert torch.equal(draw(0, 0)[0], first)
    assert not torch.equal(draw(0, 1)[0], first)
    assert not torch.equal(draw(1, 0)[0], first)
    mean = torch.stack([draw(0, epoch)[0] for epoch in range(400)]).mean(0)
    deviation = (mean - X / 28) / ((X / 28 * (1 - X / 28) / 400).sqrt() + 1e-9)
    assert deviation.abs().max() < 4.5


def test_a_transform_touches_the_first_tensor_only():
    rows = Rows.of((X, torch.arange(N)))
    for batch in TransformedBatches(SourceBatches(rows, B, with_index=True), lambda x: -x).epoch(0, 0):
        assert torch.equal(batch.args[0][:, 0], -2.0 * batch.args[1])
        assert batch.index.tolist() == batch.args[1].tolist()
        assert batch.num_data == N
