"""What is given as data and is none: the error says what came, and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ppl_vae import VariationalEM
from ppl_vae.data import load_iris, source_of
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


class Iterable:
    def __len__(self):
        return 20

    def __iter__(self):
        return iter(X)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class StreamOfLength(Stream):
    def __len__(self):
        return 20


class Items(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return X[i]


def fitted(data, **options):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = VAE(nn.Linear(2, 3), latent_dim=2, likelihood="normal")
        guide = AmortizedNormal(nn.Linear(3, 4), latent_dim=2)
    return VariationalEM(model, guide).fit(data, **{"steps": 1, "progress": False, **options})


FORMS = {
    "path": (lambda: "data.csv", r"got 'data.csv'; a file is read first: ppl_vae.data.load_file"),
    "Path": (lambda: Path("data.csv"), r"got PosixPath\('data.csv'\); a file is read first|got WindowsPath"),
    "bytes": (lambda: b"1,2", "a file is read first"),
    "generator": (lambda: (row for row in X), r"got generator .*collect them, as in torch.stack\(list\(data\)\)"),
    "iterator": (lambda: iter(X), "a fit goes over them many times"),
    "map": (lambda: map(float, range(3)), "got map; .*collect them"),
    "iterable with a length": (Iterable, r"got Iterable; .*give it __getitem__"),
    "iterable data set": (Stream, "a data set with a length and rows by number is required, got Stream, which lacks"),
    "of a length": (StreamOfLength, "rows by number is required, got StreamOfLength, which lacks"),
    "loader of it": (
        lambda: DataLoader(StreamOfLength(), batch_size=4),
        "a DataLoader over a data set with a length is required, and with rows by number, got one over the iterable "
        "StreamOfLength.*map-style",
    ),
    "a class": (lambda: Items, "make an instance of it"),
    "a function": (lambda: fitted, "got function fitted; call it"),
    "a module": (lambda: nn.Linear(1, 1), "the data come after the model and the guide"),
    "a set": (lambda: {1.0, 2.0}, "a set has no order"),
    "an object": (object, "got object; give the numbers that it holds"),
    "a data set of ours": (load_iris, r"got Dataset; give its rows: data\.train"),
    "list of rows": (lambda: [{"x": row} for row in X], "give a dictionary of columns instead of a list of rows"),
    "list of parts": (lambda: [X, X[:, 0]], r"a list is one array: give a tuple \(x, y\)"),
    "None in a dictionary": (lambda: {"x": X, "y": None}, r"data\['y'\]: .*got NoneType; leave it out"),
    "sparse": (X.to_sparse, "got a tensor of float32 in the layout sparse_coo; give it dense"),
    "sparse rows": (X.to_sparse_csr, "in the layout sparse_csr; give it dense"),
    "sparse of scipy": (lambda: scipy.sparse.csr_matrix(X.numpy()), "got csr_matrix; give it dense"),
    "complex": (lambda: X.to(torch.complex64), "got a tensor of complex64; no distribution here is complex"),
    "words": (
        lambda: pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"], "when": pd.to_datetime(["2020", "2021"])}),
        r"the columns 'b' \(.*\), 'when' \(datetime64.*\); drop them",
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_data_is_refused_with_the_way_out(form):
    make, message = FORMS[form]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fitted(make())


def test_what_looks_like_it_and_is_data():
    expected = source_of(X.numpy()).take(slice(None)).args[0]
    for data in (Items(), [row.tolist() for row in X], [row.numpy() for row in X], list(X), pd.DataFrame(X.numpy())):
        assert torch.equal(source_of(data).take(slice(None)).args[0], expected)
    assert source_of(range(4)).take(slice(None)).args[0].tolist() == [0, 1, 2, 3]
    assert fitted(Items()).ended == "completed"


OPTIONS = {
    "lr a word": ({"lr": "0.1"}, {}, TypeError, "VariationalEM: lr must be a positive number, got '0.1'"),
    "lr True": ({"lr": True}, {}, TypeError, "lr must be a positive number, got True"),
    "lr infinite": ({"lr": float("inf")}, {}, ValueError, "lr must be positive, got inf"),
    "e_lr a word": ({"e_lr": "0.1"}, {}, TypeError, "e_lr must be a positive number, got '0.1'"),
    "clip_norm a word": ({"clip_norm": "1"}, {}, TypeError, "clip_norm must be a positive number, got '1'"),
    "clip_norm NaN": ({"clip_norm": float("nan")}, {}, ValueError, "clip_norm must be positive, got nan"),
    "seed a fraction": ({}, {"seed": 1.5}, TypeError, "seed: a whole number is required, got 1.5"),
    "seed a word": ({}, {"seed": "1"}, TypeError, "seed: a whole number is required, got '1'"),
    "seed True": ({}, {"seed": True}, TypeError, "seed: a whole number is required, got True"),
    "seed negative": ({}, {"seed": -1}, ValueError, r"seed: .* from 0 to 2\*\*63 - 1 is required, got -1"),
    "seed too large": ({}, {"seed": 2**63}, ValueError, r"seed: .* from 0 to 2\*\*63 - 1 .* 9223372036854775808"),
    "seed None": ({}, {"seed": None}, TypeError, "seed: a whole number is required, got None"),
    "batch_size a word": ({}, {"batch_size": "10"}, ValueError, "batch_size must be a whole number, .* got '10'"),
    "batch_size True": ({}, {"batch_size": True}, ValueError, "batch_size must be a whole number, .* got True"),
    "device gpu": ({"device": "gpu"}, {}, ValueError, "device: 'cpu', 'cuda', .* is required, got 'gpu' .*'auto'"),
    "device meta": ({"device": "meta"}, {}, ValueError, "device: .* got 'meta'"),
    "dtype a word": ({"dtype": "float64"}, {}, TypeError, "dtype: .* torch.float64 is required, got 'float64'"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_another_kind_is_refused_in_words(option):
    em, fit, error, message = OPTIONS[option]
    model = VAE(nn.Linear(2, 3), latent_dim=2, likelihood="normal")
    guide = AmortizedNormal(nn.Linear(3, 4), latent_dim=2)
    with pytest.raises(error, match=message):
        VariationalEM(model, guide, **em).fit(X, steps=1, progress=False, **fit)


def test_seeds_at_the_ends_of_their_range():
    from ppl_vae._random import fold

    assert len({fold(seed, "step", 1) for seed in (0, 1, np.int64(2**62), 2**63 - 1)}) == 4
    for seed in (-1, 2**63, 2**70):
        with pytest.raises(ValueError, match="seed: a whole number from 0"):
            fold(seed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_so():
    with pytest.raises(ValueError, match=r"got 'cuda' .*none is found here: torch.cuda.is_available\(\) is False"):
        VariationalEM(*(nn.Linear(1, 1), nn.Linear(1, 1)), device="cuda")


def test_numbers_of_numpy_are_numbers():
    found = fitted(X, seed=np.int64(1), batch_size=np.int64(10)).params
    expected = fitted(X, seed=1, batch_size=10).params
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# masked arrays of numpy

MASKED = np.ma.masked_array(X.numpy(), X.numpy() > 1.0, fill_value=-999.0)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (MASKED, "data: .* a masked array of float32"),
        ((X, MASKED), r"data\[1\]: .* a masked array of float32"),
        ({"x": MASKED}, r"data\['x'\]: .* a masked array of float32"),
        (list(MASKED), "data: .* a list of masked arrays"),
    ],
)
def test_a_masked_array_is_refused_with_the_way_to_give_its_mask(data, place):
    with pytest.raises(ValueError, match=place + r'.*give it apart, \{"x": data.filled\(0\), "mask": ~data.mask\}'):
        source_of(data)


def test_a_masked_array_with_nothing_masked_is_a_plain_one():
    plain = np.ma.masked_array(X.numpy(), np.zeros(X.shape, bool))
    assert torch.equal(source_of(plain).args[0], X)
    apart = source_of({"x": MASKED.filled(0), "mask": ~MASKED.mask})
    assert torch.equal(apart.kwargs["mask"], X <= 1.0)
