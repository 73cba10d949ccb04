"""Rows that stay where they are are the rows that they would be in memory, and are never copied whole."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pairs import LinearGaussian, rows
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from ppl_vae import VariationalEM
from ppl_vae.data import Rows, Source, source, source_of
from ppl_vae.evidence import ImportanceWeighted, log_evidence

N = 20
X = rows(N)
Y = torch.arange(N)


class Items(Dataset):
    """A map-style data set that gives rows one by one."""

    def __init__(self, *parts: torch.Tensor, as_dict: bool = False) -> None:
        self.parts, self.as_dict = parts, as_dict

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, i: int) -> Any:
        found = tuple(part[i] for part in self.parts)
        if self.as_dict:
            return {"x": found[0]}
        return found if len(found) > 1 else found[0]


class Several(Items):
    """The same, which can be asked for many rows at once."""

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return [self[i] for i in numbers]


def mapped(tmp_path, array: np.ndarray) -> np.ndarray:
    np.save(tmp_path / "x.npy", array)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


STORED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "memory map": (lambda path: mapped(path, X.numpy()), X),
    "a tuple with a memory map": (lambda path: (mapped(path, X.numpy()), Y), (X, Y)),
    "a dictionary with a memory map": (lambda path: {"x": mapped(path, X.numpy()), "y": Y}, {"x": X, "y": Y}),
    "frame": (lambda path: pd.DataFrame(X.numpy(), columns=["a", "b", "c"]), X),
    "data set": (lambda path: Items(X), X),
    "data set of tuples": (lambda path: Items(X, Y), (X, Y)),
    "data set of dictionaries": (lambda path: Items(X, as_dict=True), {"x": X}),
    "data set with __getitems__": (lambda path: Several(X, Y), (X, Y)),
    "subset of tensors": (lambda path: Subset(TensorDataset(X, Y), range(N)), (X, Y)),
}


@pytest.fixture(params=STORED)
def kinds(request, tmp_path, monkeypatch) -> tuple[Source, Rows]:
    """A stored source, and the same rows in memory."""
    monkeypatch.setattr(source, "LARGE", 0)
    make, same = STORED[request.param]
    found = source_of(make(tmp_path), dtype=torch.float64)
    assert isinstance(found, source.Stored)
    return found, Rows.of(same)


def equal(found: Rows, expected: Rows) -> bool:
    pairs = zip((*found.args, *found.kwargs.values()), (*expected.args, *expected.kwargs.values()), strict=True)
    return list(found.kwargs) == list(expected.kwargs) and all(torch.equal(a, b) for a, b in pairs)


def test_what_is_taken_is_what_rows_in_memory_give(kinds):
    stored, memory = kinds
    assert len(stored) == len(memory) == N
    for index in (slice(3, 7), slice(None), slice(15, 99), torch.tensor([4, 0, 4, 19])):
        assert equal(stored.take(index), memory.take(index))
        assert torch.equal(stored.take(index).index, memory.take(index).index)
    assert stored.columns == memory.columns
    assert equal(Rows(stored.batch().args, stored.batch().kwargs), memory)


def test_fractions_take_the_precision_that_is_asked_for(kinds):
    single = kinds[0].to(dtype=torch.float32)
    taken = single.take(slice(0, 2))
    kinds_of = {t.dtype for t in (*taken.args, *taken.kwargs.values())}
    assert torch.float32 in kinds_of
    assert kinds_of <= {torch.float32, torch.int64}


def test_rows_in_memory_are_a_source_too():
    assert isinstance(Rows.of(X), Source)
    assert isinstance(source_of(Items(X)), Source)
    assert isinstance(source_of(pd.DataFrame(X.numpy())), Rows)  # a small frame is copied once


def test_a_nan_is_named_by_its_row_in_the_whole():
    x = X.clone()
    x[13, 2] = torch.nan
    with pytest.raises(ValueError, match="no NaN is allowed, found one at row 13, column 2"):
        source_of(Items(x)).take(slice(10, 20))
    with pytest.raises(ValueError, match="row 13, column 2"):
        source_of(Items(x)).take(torch.tensor([1, 13, 2]))


class NoLength(Dataset):
    def __getitem__(self, i: int) -> torch.Tensor:
        return X[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


@pytest.mark.parametrize("data", [NoLength(), Stream()])
def test_a_data_set_without_numbered_rows_is_refused(data):
    with pytest.raises(ValueError, match=f"with a length and rows by number is required, got {type(data).__name__}"):
        source_of(data)


def test_parts_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("same number of rows (axis 0), got [20, 19]")):
        source_of((mapped(tmp_path, X.numpy()), Y[1:]))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        source_of(Items(X[:0]))


def trained(data: Any, **options: Any) -> Any:
    pair = LinearGaussian()
    return VariationalEM(pair.model, pair.guide, lr=0.01).fit(data, seed=2, progress=False, **options)


@pytest.mark.parametrize("batch_size", [None, 6])
def test_a_fit_of_stored_rows_is_that_of_rows_in_memory(tmp_path, batch_size):
    memory = trained(X, epochs=3, batch_size=batch_size)
    for data in (mapped(tmp_path, X.numpy()), Items(X)):
        fit = trained(data, epochs=3, batch_size=batch_size)
        assert all(torch.equal(fit.params[name], value) for name, value in memory.params.items())
        assert fit.history.equals(memory.history)


def test_evaluation_of_stored_rows_is_that_of_rows_in_memory(tmp_path):
    fit = trained(X, epochs=1)
    for data in (mapped(tmp_path, X.numpy()), Items(X)):
        estimates = [log_evidence(fit, d, ImportanceWeighted(5), max_elements=30).value for d in (X, data)]
        assert torch.equal(*estimates)
        assert torch.equal(fit.elbo(data, num_samples=3), fit.elbo(X, num_samples=3))
        assert torch.equal(fit.encode(data), fit.encode(X))
        assert fit.to_inference_data(data, num_samples=2).posterior["z"].shape[2] == N


MEMORY = """
import sys, numpy as np, torch, pyro, pyro.distributions as dist
from ppl_vae import Callback, VariationalEM

def model(x):
    loc = pyro.param("loc", torch.zeros(64))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

def guide(x):
    pass

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

class Peak(Callback):
    most = 0.0
    def on_step(self, run, report):
        Peak.most = max(Peak.most, anonymous())

VariationalEM(model, guide, compile=False).fit(torch.zeros(256, 64), steps=2, batch_size=64, progress=False)
before = anonymous()
data = np.load(sys.argv[1], mmap_mode="r")
fit = VariationalEM(model, guide, compile=False).fit(data, steps=20, batch_size=64, progress=False, callbacks=[Peak()])
fit.elbo(data[:1000])
print(max(Peak.most, anonymous()) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_a_memory_map_is_not_copied(tmp_path):
    """50 MB in single precision: neither the file nor a copy of it is in memory, only an order of its rows."""
    np.save(tmp_path / "x.npy", np.zeros((200_000, 64), np.float32))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 20
