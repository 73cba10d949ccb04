"""Parameters with an entry for each row are refused on mini-batches, whatever makes them; others are not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

import ppl_vae
from ppl_vae import CompiledSVI, Pair, VariationalEM
from ppl_vae.inference import compiled_svi
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


class OfTheBatch(InAModule):
    """As many entries as a batch has rows: on any other number it does not run."""

    def __init__(self):
        PyroModule.__init__(self)
        self.loc = nn.Parameter(torch.zeros(B))
        self.scale = nn.Parameter(torch.ones(B))

    def forward(self, x):
        sample_z(x, self.loc, self.scale)


class OfTheBatchAsPyroParam(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.ones(B), constraint=dist.constraints.positive)

    def forward(self, x):
        sample_z(x, self.loc)


def statement_of_the_batch(x):
    sample_z(x, pyro.param("loc", torch.zeros(B)))


OF_THE_BATCH = {"nn": OfTheBatch, "PyroParam": OfTheBatchAsPyroParam, "pyro.param": lambda: statement_of_the_batch}


@pytest.mark.parametrize("make", OF_THE_BATCH.values(), ids=OF_THE_BATCH)
def test_as_many_entries_as_a_batch_has_rows_are_refused_by_name(make):
    guide = make()
    before = dict(guide.named_parameters()) if isinstance(guide, nn.Module) else {}
    with pytest.raises(DataAxisError, match=r"loc\S* \(10,\)"):
        ppl_vae.fit(model, guide, X, steps=3, batch_size=B, progress=False)
    assert all(leaf.shape == (B,) and leaf is before[n] for n, leaf in (guide.named_parameters() if before else ()))


def test_columns_of_a_pair_with_a_plate_of_fixed_size_are_not_taken_for_rows():
    """One row more does not run, and no parameter is to blame."""

    def fixed(x):
        w = pyro.param("w", torch.zeros(D))
        with pyro.plate("data", B):
            pyro.sample("z", dist.Normal(x @ w, 1.0))

    def of_ten(x):
        with pyro.plate("data", B):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(B, D), 1.0).to_event(1), obs=x)

    ppl_vae.fit(of_ten, fixed, TABLE, steps=3, batch_size=B, data_plate="data", progress=False)


LOSSES = [ppl_vae.ELBO, pyro.infer.Trace_ELBO]
IN_A_RUN = {**OF_THE_BATCH, "by length": lambda: by_length}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("make", IN_A_RUN.values(), ids=IN_A_RUN)
def test_a_compiled_svi_on_mini_batches_refuses_them_too(make, loss):
    with pyro.get_param_store().scope():
        svi = CompiledSVI(model, make(), pyro.optim.Adam({"lr": 0.01}), loss(), mode="eager")
        with pytest.raises(DataAxisError, match=r"CompiledSVI.run: .*loc\S* \(10,\)"):
            svi.run(X, 3, batch_size=B)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["module", "columns"])
def test_a_compiled_svi_that_has_asked_makes_the_steps_that_it_made(loss, kind, monkeypatch):
    net = nn.Linear(D, 1)
    start = {name: value.clone() for name, value in net.state_dict().items()}

    def networked(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x)[:, 0], 1.0))

    def losses():
        net.load_state_dict(start)
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            guide = networked if kind == "module" else columns
            svi = CompiledSVI(of_columns, guide, pyro.optim.Adam({"lr": 0.01}), loss(), mode="eager")
            return [*svi.run(TABLE, 5, batch_size=B).tolist(), *svi.run(TABLE, 2, batch_size=7).tolist()]

    asked = losses()
    monkeypatch.setattr(compiled_svi, "require_shared", lambda svi, rows, asked: asked)
    assert losses() == asked


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

    with pytest.raises(DataAxisError, match=r"'offset' \(10,\) must have another shape"):
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
