"""Parameters with an entry for each row are refused on mini-batches, whatever makes them; others are not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

import ppl_vae
from ppl_vae import Pair, VariationalEM
from ppl_vae.pair import DataAxisError
from ppl_vae.pair.row_parameters import row_parameters

N, B, D = 30, 10, 10  # as many columns as a batch has rows
X = torch.cat([torch.full((10,), v) for v in (-5.0, 0.0, 5.0)])
TABLE = torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def sample_z(x, loc, scale=0.9):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


def by_length(x):
    sample_z(x, pyro.param("loc", torch.zeros(len(x))))


def by_function(x):
    sample_z(x, pyro.param("loc", lambda: torch.zeros(x.shape)))


def constrained(x):
    sample_z(x, torch.zeros(len(x)), pyro.param("loc", torch.ones(len(x)), constraint=dist.constraints.positive))


def in_the_plate(x):
    with pyro.plate("data", len(x)):
        loc = pyro.param("loc", torch.zeros(len(x)), event_dim=0)
        pyro.sample("z", dist.Normal(loc, 0.9))


def of_fixed_length(x):
    sample_z(x, pyro.param("loc", torch.zeros(N)))


class InAModule(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(N))

    def forward(self, x):
        sample_z(x, self.loc)


class AsPyroParam(InAModule):
    def __init__(self):
        PyroModule.__init__(self)
        self.loc = PyroParam(torch.zeros(N))


class StatementInAModule(PyroModule):
    def forward(self, x):
        sample_z(x, pyro.param("loc", torch.zeros(len(x))))


REFUSED = {
    "by length": lambda: by_length,
    "by function": lambda: by_function,
    "constrained": lambda: constrained,
    "in the plate": lambda: in_the_plate,
    "of fixed length": lambda: of_fixed_length,
    "nn.Parameter": InAModule,
    "PyroParam": AsPyroParam,
    "pyro.param in a module": StatementInAModule,
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_parameter_by_row_is_refused_by_name(make):
    with pytest.raises(DataAxisError, match="loc"):
        ppl_vae.fit(model, make(), X, steps=3, batch_size=B, progress=False)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_on_all_rows_at_once_it_is_welcome(make):
    fit = ppl_vae.fit(model, make(), X, steps=3, progress=False)
    (loc,) = fit.params.values()
    assert loc.shape == (N,)


def test_after_the_refusal_the_pair_is_as_new():
    engine = VariationalEM(model, by_length)
    with pytest.raises(DataAxisError, match="'loc'"):
        engine.fit(X, steps=3, batch_size=B, progress=False)
    assert engine.fit(X, steps=3, progress=False).params["loc"].shape == (N,)
    with pytest.raises(DataAxisError, match="'loc'"):
        engine.fit(X, steps=3, batch_size=B, progress=False)


def test_the_model_may_not_have_one_either():
    def with_offsets(x):
        offset = pyro.param("offset", torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
            pyro.sample("x", dist.Normal(z + offset, 1.0), obs=x)

    with pytest.raises(DataAxisError, match=r"pyro.param makes 'offset' \(10,\) of another shape"):
        ppl_vae.fit(with_offsets, lambda x: sample_z(x, x), X, steps=3, batch_size=B, progress=False)


def test_a_data_loader_makes_mini_batches_too():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=B)
    with pytest.raises(DataAxisError, match="'loc'"):
        ppl_vae.fit(model, by_length, loader, steps=3, progress=False)


def test_steps_by_hand_on_some_of_the_rows_too():
    with pytest.raises(DataAxisError, match="'loc'"):
        VariationalEM(model, by_length).step(X[:B], num_data=N)
    VariationalEM(model, by_length).step(X)


def columns(x):
    """As many weights as a batch has rows, and no rows."""
    w = pyro.param("w", torch.zeros(x.shape[1]))
    s = pyro.param("s", torch.ones(D), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ w, s.mean()))


def inducing(x):
    """Started at some of the rows, as inducing points are."""
    points = pyro.param("points", x[:5].clone())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x @ points.T).mean(-1), 1.0))


def of_columns(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("guide", [columns, inducing])
@pytest.mark.parametrize("size", [5, B, 7])
def test_a_parameter_that_merely_has_the_size_is_welcome(guide, size):
    fit = ppl_vae.fit(of_columns, guide, TABLE, steps=4, batch_size=size, progress=False)
    assert not row_parameters(fit.pair, size)


def test_gathered_by_index_is_welcome():
    def guide(x, index):
        sample_z(x, pyro.param("loc", torch.zeros(N))[index])

    def indexed(x, index):
        model(x)

    fit = ppl_vae.fit(indexed, guide, X, steps=400, lr=0.1, batch_size=B, progress=False)
    torch.testing.assert_close(fit.params["loc"], 0.9 * X, atol=0.6, rtol=0)


@pytest.mark.parametrize("side", ["guide", "model"])
def test_a_plate_that_gathers_its_parameters_is_welcome(side):
    """``pyro.param(..., event_dim=0)`` inside a plate that has a subsample: Pyro takes its rows."""

    def rows(index):
        return pyro.plate("data", N, subsample=index)

    def modelled(x, index):
        with rows(index):
            offset = pyro.param("offset", torch.zeros(N), event_dim=0) if side == "model" else 0.0
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
            pyro.sample("x", dist.Normal(z + offset, 1.0), obs=x)

    def guide(x, index):
        with rows(index):
            loc = pyro.param("loc", torch.zeros(N), event_dim=0) if side == "guide" else 0.9 * x
            pyro.sample("z", dist.Normal(loc, 0.9))

    fit = ppl_vae.fit(modelled, guide, X, steps=6, batch_size=B, data_plate="data", progress=False)
    assert next(iter(fit.params.values())).shape == (N,)


def test_looking_for_them_changes_nothing():
    """Neither parameters nor the noise of the steps."""
    pair = Pair(of_columns, columns).initialize(TABLE)
    before = {name: leaf.clone() for name, leaf in pair.parameters_by_name().items()}
    state = torch.random.get_rng_state()
    assert row_parameters(pair, B) == {}
    assert torch.equal(state, torch.random.get_rng_state())
    after = pair.parameters_by_name()
    assert all(torch.equal(leaf, after[name]) for name, leaf in before.items()) and before.keys() == after.keys()
