"""A data set without a loader: read in blocks, by the same values, with memory in bounds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from ppl_vae.data import Rows, reading, source_of

N = 1000
X, Y = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), torch.arange(N)


class Items(Dataset):
    """Rows one by one, in a form of choice; remembers how many were asked for at once."""

    def __init__(self, form=lambda i: (X[i], Y[i])):
        self.form = form

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.form(i)


class Several(Items):
    """Whole blocks are asked for by ``__getitems__``."""

    asked: list[int]

    def __getitem__(self, i):
        raise AssertionError("rows are asked for in blocks")

    def __getitems__(self, numbers):
        self.asked.append(len(numbers))
        return [(X[i], Y[i]) for i in numbers]


@pytest.fixture
def small(monkeypatch):
    """Blocks so small that there are many, the last one not full."""
    monkeypatch.setattr(reading, "BLOCK_ROWS", 70)


@pytest.mark.parametrize("place", [slice(None), slice(3, 900), torch.randperm(N), torch.tensor([5])])
def test_rows_in_blocks_are_the_rows(place, small):
    rows = source_of(Items()).take(place)
    assert torch.equal(rows.args[0], X[place]) and torch.equal(rows.args[1], Y[place])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda i: {"x": X[i], "y": int(Y[i])}, Rows.of({"x": X, "y": Y})),
        (lambda i: X[i].double().numpy(), Rows.of(X)),
        (lambda i: float(X[i, 0]), Rows.of(X[:, 0])),
        (lambda i: [X[i], bool(Y[i] % 2)], Rows.of((X, Y % 2 == 1))),
    ],
)
def test_items_of_every_form(form, expected, small):
    rows = source_of(Items(form), dtype=torch.float32).take(slice(None))
    pairs = [*zip(rows.args, expected.args, strict=True)]
    pairs += zip(rows.kwargs.values(), expected.kwargs.values(), strict=True)
    for found, right in pairs:
        assert found.dtype == right.dtype and torch.equal(found, right)
    assert rows.kwargs.keys() == expected.kwargs.keys()


def test_blocks_are_asked_of_a_data_set_that_gives_them(small):
    data = Several()
    data.asked = []
    assert torch.equal(source_of(data).take(slice(None)).args[0], X)
    assert max(data.asked) <= 70 and sum(data.asked) == N + 1  # and one row to see what they are


def test_no_rows_by_an_empty_index_are_refused_as_ever():
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        source_of(Items()).take(slice(0, 0))


def odd(row, form):
    """Rows of which one has another form."""
    return Items(lambda i: form if i == row else (X[i], Y[i]))


@pytest.mark.parametrize("row", [7, 64, 70])  # in the first block, at the head of the second, and in it
@pytest.mark.parametrize(
    ("form", "came"),
    [
        (None, "required, got None"),
        ((X[0], None), r"required, got \(the shape \(3,\), None\)"),
        ((X[0, :2], Y[0]), r"rows of one form are required, got \(the shape \(2,\), the shape \(\)\)"),
        ((X[0],), r"rows of one form are required, got \(the shape \(3,\)\)"),
        ({"x": X[0]}, r"rows of one form are required, got \{'x': the shape \(3,\)\}"),
    ],
)
def test_a_row_that_is_none_or_of_another_form_is_named_by_its_number(row, form, came):
    if row != 64:
        with pytest.raises(ValueError, match=rf"^data: .*{came} at row {row}"):
            source_of(odd(row, form)).take(slice(None))
    with pytest.raises(ValueError, match=rf"^data: .*{came} at row {row}"):
        source_of(odd(row, form)).take(torch.tensor([3, row, 5]))


def test_a_first_row_that_is_none_is_named_at_once():
    with pytest.raises(ValueError, match="tuples or dictionaries of these, are required, got None at row 0"):
        source_of(odd(0, None))


def test_rows_of_other_shapes_are_named():
    """The first block tells of the shape: only a later one can differ from it without torch's own error."""
    with pytest.raises(ValueError, match=r"got the shape \(2,\) at row 64, and the shape \(3,\) at row 0"):
        source_of(Items(lambda i: X[i] if i < 64 else X[i, :2])).take(slice(None))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [">f4", "read-only", "turned", np.longdouble])
def test_rows_that_are_arrays_of_any_form(kind):
    rows = X.numpy().copy() if kind in ("read-only", "turned") else X.numpy().astype(kind)
    rows = rows[:, ::-1] if kind == "turned" else rows
    rows.flags.writeable = False
    expected = X.flip(1) if kind == "turned" else X
    found = source_of(Items(lambda i: [rows[i], Y[i]]), dtype=torch.float32).take(slice(5, 500))
    assert torch.equal(found.args[0], expected[5:500])


def parts():
    whole = TensorDataset(X, Y)
    first, second = random_split(whole, [600, 400], generator=torch.Generator().manual_seed(1))
    return {
        "Subset": (Subset(whole, range(5, 50)), slice(5, 50)),
        "random_split": (first, torch.tensor(first.indices)),
        "ConcatDataset": (ConcatDataset([second, first]), torch.tensor([*second.indices, *first.indices])),
        "a Subset of a Subset": (Subset(first, [3, 1]), torch.tensor(first.indices)[[3, 1]]),
    }


@pytest.mark.parametrize("name", parts())
def test_what_is_made_of_tensors_is_taken_by_its_tensors(name, monkeypatch):
    data, numbers = parts()[name]
    monkeypatch.setattr(TensorDataset, "__getitem__", None)  # no row is asked for by itself
    expected = X[numbers], Y[numbers]
    for index in (slice(None), torch.arange(len(data)).flip(0), torch.tensor([1, 0, 1])):
        found = source_of(data).take(index)
        assert torch.equal(found.args[0], expected[0][index]) and torch.equal(found.args[1], expected[1][index])


class Doubled(TensorDataset):
    def __getitem__(self, i):
        return tuple(2 * part for part in super().__getitem__(i))


def test_a_subclass_that_changes_its_rows_is_asked_for_them():
    for data in (Subset(Doubled(X), range(N)), ConcatDataset([TensorDataset(X), Doubled(X)])):
        found = source_of(data).take(slice(N - 4, N + 4)).args[0]
        expected = 2 * X[N - 4 :] if len(data) == N else torch.cat([X[N - 4 :], 2 * X[:4]])
        assert torch.equal(found, expected)


SCRIPT = """
import resource, sys, torch
from torch.utils.data import Dataset
from ppl_vae.data import source_of
x = torch.ones(150_000, 6)
class Items(Dataset):
    def __len__(self): return len(x)
    def __getitem__(self, i): return x[i]
source = source_of(Items())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = source.batch()
assert torch.equal(rows.args[0], x)
scale = 1 if sys.platform == "darwin" else 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale / (x.numel() * 4))
"""


def test_the_peak_of_memory_is_a_small_multiple_of_the_rows():
    """Before, each row was an object of its own until all were read: 27 times the size of these."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 8
