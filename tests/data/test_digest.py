"""A resumed run knows its rows again: all of those in memory and in files, the first of those that are made anew."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import torch
from runs import Run, data, differences, plain, snapshot
from torch.utils.data import DataLoader, Dataset, SequentialSampler, TensorDataset

from ppl_vae.data import digest, source
from ppl_vae.data.digest import rows_digest
from ppl_vae.data.source import source_of
from ppl_vae.storage import RunFolder, load_tree, save_tree
from ppl_vae.training import ResumeError

N = 1000
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
LATE = 700  # a row far behind the first 256


def changed(x: torch.Tensor) -> torch.Tensor:
    other = x.clone()
    other[LATE, 1] += 1e-6
    assert not torch.equal(other, x)
    return other


def on_disk(x: torch.Tensor, folder) -> np.memmap:
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, x.numpy())
    return np.load(path, mmap_mode="r")


class Items(Dataset):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.x[i]


class Noisy(Items):
    def __getitem__(self, i: int) -> torch.Tensor:
        return self.x[i] + 0.01 * torch.randn(3)


FORMS = {
    "a tensor": lambda x, folder: x,
    "of other strides": lambda x, folder: x.t().contiguous().t(),
    "half precision": lambda x, folder: (x + 100 * (x != X)).bfloat16(),
    "an array": lambda x, folder: x.numpy().astype(np.float64),
    "a frame": lambda x, folder: pd.DataFrame(x.numpy(), columns=list("abc")),
    "x and labels": lambda x, folder: (X, (x[:, 1] != X[:, 1]).long()),
    "by name": lambda x, folder: {"x": x, "mask": torch.ones(N, 3, dtype=torch.bool)},
    "a memory map": on_disk,
    "a memory map and an array": lambda x, folder: (on_disk(X, folder), x.numpy()),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_late_number_is_another_digest(form, tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "BLOCK", 1 << 10)
    make = FORMS[form]
    first = rows_digest(source_of(make(X, tmp_path)))
    assert rows_digest(source_of(make(X.clone(), tmp_path))) == first
    assert rows_digest(source_of(make(changed(X), tmp_path))) != first


def test_the_digest_does_not_hang_on_where_rows_lie_nor_on_blocks(tmp_path, monkeypatch):
    first = rows_digest(source_of(X))
    frame = pd.DataFrame(X.numpy())
    monkeypatch.setattr(source, "LARGE", 1)
    monkeypatch.setattr(digest, "BLOCK", 100)
    assert isinstance(source_of(frame), source.Stored)
    for other in (X, on_disk(X, tmp_path), frame):
        assert rows_digest(source_of(other)) == first


def test_names_kinds_and_shapes_count():
    zeros = torch.zeros(4, 2)
    others = [zeros.int(), zeros.reshape(4, 1, 2), {"x": zeros}, {"y": zeros}, (zeros, zeros)]
    found = [str(rows_digest(source_of(rows))) for rows in (zeros, *others)]
    assert len(set(found)) == len(found)
    assert rows_digest(source_of(None)) == []


def test_of_large_files_blocks_spread_over_all_count_and_their_time(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "BLOCK", 240)  # 20 rows
    monkeypatch.setattr(digest, "MOST_OF_FILES", 10 * 240)
    path = tmp_path / "x.npy"
    np.save(path, X.numpy())
    os.utime(path, ns=(10**18, 10**18))

    def found() -> list:
        return rows_digest(source_of(np.load(path, mmap_mode="r")))

    first = found()
    assert first[-1] == [path.stat().st_size, 10**18]
    assert found() == first
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert found() != first
    rows = X.numpy().copy()
    rows[-1, 0] += 1  # in the last block
    np.save(path, rows)
    os.utime(path, ns=(10**18, 10**18))
    assert found() != first


def test_of_a_data_set_the_first_rows_count_whatever_noise_it_adds():
    assert rows_digest(source_of(Items(X))) == rows_digest(source_of(Items(changed(X))))
    assert rows_digest(source_of(Items(X))) != rows_digest(source_of(Items(X + 1)))


# runs

ROWS = data(600)
RUN = Run(pair=plain, fit={"batch_size": 100}, rows=lambda: ROWS)


def late(rows: torch.Tensor) -> torch.Tensor:
    other = rows.clone()
    other[500] += 1
    return other


def test_a_run_on_other_late_rows_is_not_resumed(tmp_path):
    RUN(3, folder=tmp_path)
    RUN(3).save(tmp_path / "saved")
    other = Run(pair=plain, fit={"batch_size": 100}, rows=lambda: late(ROWS))
    for folder in (tmp_path, tmp_path / "saved"):
        with pytest.raises(ResumeError, match=r"of another run \(the rows are not those of the run\)$"):
            other(5, folder=folder, resume=True)
        assert differences(snapshot(RUN(5)), snapshot(RUN(5, folder=folder, resume=True))) == []


def test_a_state_of_an_earlier_build_has_no_digest_and_is_resumed(tmp_path):
    RUN(3, folder=tmp_path)
    path = tmp_path / RunFolder.STATE
    state = load_tree(path)
    for key in ("rows", "sampler", "validation"):
        state["fingerprint"].pop(key, None)
    save_tree(path, state)
    assert differences(snapshot(RUN(5)), snapshot(RUN(5, folder=tmp_path, resume=True))) == []
    save_tree(path, state)
    with pytest.raises(ResumeError, match="the rows are not those of the run"):
        Run(pair=plain, fit={"batch_size": 100}, rows=lambda: ROWS + 1)(5, folder=tmp_path, resume=True)


def test_other_validation_rows_are_another_run(tmp_path):
    RUN(3, folder=tmp_path, validation=ROWS[:300])
    with pytest.raises(ResumeError, match=r"\(the validation rows are not those of the run\)$"):
        RUN(5, folder=tmp_path, resume=True, validation=late(ROWS)[300:])
    assert RUN(5, folder=tmp_path, resume=True, validation=ROWS[:300]).steps == 5


def test_a_data_set_whose_items_are_noisy_is_resumed(tmp_path):
    run = Run(pair=plain, fit={"batch_size": 100}, rows=lambda: Noisy(ROWS))
    run(3, folder=tmp_path)
    assert run(5, folder=tmp_path, resume=True).steps == 5


class Seeded(SequentialSampler):
    def __init__(self, rows, seed: int) -> None:
        super().__init__(rows)
        self.seed = seed


def loader(rows: torch.Tensor, **options) -> DataLoader:
    seed = options.pop("sampler_seed", None)
    dataset = TensorDataset(rows)
    sampler = {} if seed is None else {"sampler": Seeded(dataset, seed)}
    return DataLoader(dataset, batch_size=100, **sampler, **options)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (loader(ROWS), loader(ROWS + 1), "the rows are not those of the run"),
        (loader(ROWS, sampler_seed=1), loader(ROWS, sampler_seed=2), "sampler: saved"),
        (loader(ROWS), loader(ROWS, sampler_seed=2), "sampler: saved"),
        (loader(ROWS), loader(ROWS[:500]), "num_data: saved"),
    ],
)
def test_of_a_loader_the_first_batch_counts_and_how_it_chooses(one, other, words, tmp_path):
    run = Run(pair=plain, fit={}, rows=lambda: one)
    run(3, folder=tmp_path)
    with pytest.raises(ResumeError, match=words):
        Run(pair=plain, fit={}, rows=lambda: other)(5, folder=tmp_path, resume=True)
    assert run(5, folder=tmp_path, resume=True).steps == 5
