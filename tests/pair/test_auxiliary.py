"""A term of training that no density counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from ppl_vae.pair import Pair
from ppl_vae.pair.auxiliary import auxiliary

N = 7
X = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def pair(*, where=""):
    term = X.sum(-1).abs()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            if where == "model":
                auxiliary("term", term)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if where == "guide":
                auxiliary("term", term)
            pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))

    return model, guide


@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO])
@pytest.mark.parametrize("vectorize", [False, True])
def test_pyros_losses_pass_over_it(where, elbo, vectorize):
    options = {"num_particles": 3, "vectorize_particles": vectorize, "max_plate_nesting": 1}
    losses = []
    for each in (pair(where=where), pair()):
        torch.manual_seed(1)
        losses.append(elbo(**options, strict_enumeration_warning=False).loss(*each, X))
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


@pytest.mark.parametrize("where", ["model", "guide"])
def test_no_density_of_a_pair_counts_it(where):
    drawn = Pair(*pair(where=where), dtype=torch.float64).draw(X, 5, seed=0)
    plain = Pair(*pair(), dtype=torch.float64).draw(X, 5, seed=0)
    assert torch.equal(drawn.log_weight, plain.log_weight)
    assert set(drawn.log_p) | set(drawn.log_q) == {"x", "z"}


def test_the_flag_and_the_value_are_there_for_an_objective():
    trace = poutine.trace(pair(where="guide")[1]).get_trace(X)
    site = trace.nodes["term"]
    assert site["infer"]["_auxiliary"] and site["is_observed"]
    assert torch.equal(site["value"], X.sum(-1).abs())
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
