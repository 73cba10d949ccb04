"""On mini-batches a row may stand anywhere: what belongs to a place in the batch is refused, whoever made it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

import ppl_vae
from ppl_vae import VariationalEM
from ppl_vae.pair import DataAxisError

X = torch.cat([torch.full((10,), v) for v in (-5.0, 0.0, 5.0)])


def model(x, index=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def draw(x, loc):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.9))


class Lazy(PyroModule):
    def forward(self, x):
        if not hasattr(self, "loc"):
            self.loc = PyroParam(torch.zeros(len(x)))
        draw(x, self.loc)


class Fixed(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        draw(x, self.loc[: len(x)])


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Embedding(30, 1)

    def forward(self, x):
        draw(x, self.loc(torch.arange(len(x)))[:, 0])


PLACED = {
    "a parameter for each place": lambda x: draw(
        x, torch.stack([pyro.param(f"loc_{i}", torch.tensor(0.0)) for i in range(len(x))])
    ),
    "cut to the batch": lambda x: draw(x, pyro.param("loc", torch.zeros(30))[: len(x)]),
    "gathered by place": lambda x: draw(x, pyro.param("loc", torch.zeros(30))[torch.arange(len(x))]),
    "made by the first batch": Lazy(),
    "a parameter of a batch": Fixed(10),
    "a parameter of all rows": Fixed(30),
    "an embedding": Embedded(),
}


@pytest.mark.parametrize("guide", PLACED.values(), ids=PLACED)
def test_what_belongs_to_a_place_is_refused(guide):
    with pytest.raises(DataAxisError, match="loc.*index"):
        ppl_vae.fit(model, guide, X, steps=2, batch_size=10, progress=False)


def by_index(x, index):
    draw(x, pyro.param("loc", torch.zeros(30))[index])


SHARED = {
    "by index": by_index,
    "a weight": lambda x: draw(x, pyro.param("w", torch.tensor(0.5)) * x),
    "as many weights as rows": lambda x: draw(x, (pyro.param("w", torch.ones(10)) * x.unsqueeze(-1)).sum(-1)),
    "the batch as a whole": lambda x: draw(x, pyro.param("w", torch.tensor(0.5)) * (x - x.mean())),
    "inducing points": lambda x: draw(x, (x.unsqueeze(-1) - pyro.param("points", X[:10].clone())).sum(-1)),
}


@pytest.mark.parametrize("guide", SHARED.values(), ids=SHARED)
def test_what_all_rows_share_is_not(guide):
    assert ppl_vae.fit(model, guide, X, steps=2, batch_size=10, progress=False).ended == "completed"


def test_in_the_model_too():
    def placed(x):
        offset = pyro.param("offset", torch.zeros(30))[: len(x)]
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(offset, 1.0), obs=x)

    with pytest.raises(DataAxisError, match="the model's density of 'x' .*'offset'"):
        ppl_vae.fit(placed, lambda x: None, X, steps=2, batch_size=10, progress=False)


def grouped(x):
    """A plate that happens to have the size of a batch, in the dimension of the data plate, is none of rows."""
    with pyro.plate("groups", 10):
        offset = pyro.sample("offset", dist.Normal(pyro.param("loc", torch.linspace(-1.0, 1.0, 10)), 1.0))
    draw(x, offset[0] * 0 + pyro.param("w", torch.tensor(0.5)) * x)


def with_groups(x):
    with pyro.plate("groups", 10):
        pyro.sample("offset", dist.Normal(0.0, 1.0))
    model(x)


def test_a_plate_of_the_size_of_a_batch_is_none_of_rows():
    em = VariationalEM(with_groups, grouped, data_plate="data")
    assert em.fit(X, steps=2, batch_size=10, progress=False).ended == "completed"
