"""Pairs whose data plate draws a subsample by itself: all that is put together is of the same rows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from ppl_vae import ELBO, IWAE, RLOO, Pair
from ppl_vae.data.rows import Batch
from ppl_vae.objectives import wake_sleep
from ppl_vae.objectives.weighted_draws import log_density

DATA = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MARK = {"enumerate": "parallel"}


class Subsampled(nn.Module):
    """c and z of three of eight rows that the plate draws."""

    def __init__(self, infer: dict[str, str]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.infer = infer
        self.loc = nn.Parameter(torch.randn(4, 2, dtype=torch.float64))
        self.encoder, self.slope = (nn.Linear(2, n, dtype=torch.float64) for n in (4, 2))

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            c = pyro.sample("c", dist.Categorical(logits=self.loc.new_zeros(4)))
            z = pyro.sample("z", dist.Normal(self.loc[c], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x[rows])

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("c", dist.Categorical(logits=self.encoder(x[rows])), infer=self.infer)
            pyro.sample("z", dist.Normal(self.slope(x[rows]), 0.7).to_event(1))


def rows_of(run) -> list[int]:
    return run.guide_trace.nodes["data"]["value"].tolist()


def test_enumeration_is_not_refused_and_gives_what_pyro_gives():
    module = Subsampled(MARK)
    pair = Pair(module.model, module.guide).initialize(DATA)
    torch.manual_seed(0)
    with pair.scope():
        ours = ELBO(analytic_kl=False).terms(pair, Batch((DATA,))).objective
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        pyros = TraceEnum_ELBO(max_plate_nesting=1).loss(module.model, module.guide, DATA)
    assert ours.item() == pytest.approx(-pyros / len(DATA), abs=1e-10)


def test_draws_are_of_the_same_rows_in_one_run_and_in_many(monkeypatch):
    pair = Pair(*(getattr(Subsampled({}), side) for side in ("model", "guide"))).initialize(DATA)
    with pair.scope():
        assert pair.vectorizes(Batch((DATA,)))
        monkeypatch.setattr(pair.runner, "vectorizes", lambda batch: False)
        runs = pair.runs(Batch((DATA,)), 4)
        again = pair.runs(Batch((DATA,)), 4)
    assert len(runs) == 4
    assert all(rows_of(run) == rows_of(runs[0]) for run in runs)
    assert rows_of(again[0]) != rows_of(runs[0])  # the next step has others
    assert len({tuple(run.guide_trace.nodes["c"]["value"].tolist()) for run in runs}) > 1


def test_a_guide_that_is_run_anew_scores_the_rows_it_drew_for():
    module = Subsampled({})
    pair = Pair(module.model, module.guide).initialize(DATA)
    batch = Batch((DATA,))
    with pair.scope():
        draws = wake_sleep.weighted_draws(RLOO(2), pair, batch)
        assert torch.allclose(wake_sleep._log_q(pair, batch, draws), draws.log_q, atol=1e-10)
        anew = log_density(pair.rescore_guide(batch, draws.runs[0]), pair)
    assert torch.allclose(anew, draws.log_q, atol=1e-10)


def test_an_importance_weighted_bound_of_an_exact_guide_has_no_noise_between_draws(monkeypatch):
    """With q = p(z | x) every weight is p(x), so draws of different rows would show in the bound."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.5, dtype=x.dtype).sqrt())
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, scale).to_event(1))

    pair = Pair(model, guide).initialize(DATA)
    monkeypatch.setattr(pair.runner, "vectorizes", lambda batch: False)
    with pair.scope():
        terms = IWAE(5).terms(pair, Batch((DATA,)))
    assert float(terms.objective.detach()) == pytest.approx(float(terms.elbo.detach()), abs=1e-10)
