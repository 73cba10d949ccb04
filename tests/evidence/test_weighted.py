"""Weights of ``poutine.scale``: in the objective, in no density; and the factor of a subsampled plate is none."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from ppl_vae import ELBO, IWAE, Fit, Pair, VariationalEM
from ppl_vae._random import isolated_rng
from ppl_vae.diagnostics import verdict
from ppl_vae.evidence import decomposition, elbo, log_evidence

N, T = 8, 3
X = torch.randn(N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
ROWS = 0.2 + torch.arange(N, dtype=torch.float64) / N
EXACT = dist.Normal(torch.zeros((), dtype=torch.float64), 2**0.5).log_prob(X)
MEAN, SD = 0.3, 0.6  # of the guide


def pair_with(prior=1.0, likelihood=1.0, posterior=1.0):
    def site(name, fn, weight, **kwargs):
        with poutine.scale(scale=weight):
            return pyro.sample(name, fn, **kwargs)

    def model(x):
        with pyro.plate("data", len(x)):
            z = site("z", dist.Normal(x.new_zeros(()), 1.0), prior)
            site("x", dist.Normal(z, 1.0), likelihood, obs=x)

    def guide(x):
        shift = pyro.param("shift", torch.zeros((), dtype=x.dtype))
        with pyro.plate("data", len(x)):
            site("z", dist.Normal(MEAN * x + shift, SD), posterior)

    return model, guide


def pieces():
    """E log p(x | z), E log p(z), E log q(z) under the guide, by row."""
    log_2pi = torch.tensor(2 * torch.pi, dtype=torch.float64).log()
    likelihood = -0.5 * (log_2pi + (X - MEAN * X) ** 2 + SD**2)
    prior = -0.5 * (log_2pi + (MEAN * X) ** 2 + SD**2)
    posterior = (-0.5 * (log_2pi + 1) - torch.tensor(SD, dtype=torch.float64).log()).expand(N)
    return {"likelihood": likelihood, "prior": prior, "posterior": posterior}


WEIGHTS = {
    "likelihood": {"likelihood": 0.3},
    "prior and guide": {"prior": 0.5, "posterior": 0.5},
    "the model alone": {"prior": 0.5},
    "the guide alone": {"posterior": 2.0},
    "everything": {"prior": 0.1, "likelihood": 0.1, "posterior": 0.1},
    "by row": {"likelihood": ROWS, "prior": ROWS, "posterior": ROWS},
    "a tensor": {"likelihood": torch.tensor(0.3, dtype=torch.float64)},
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_each_number_says_which_model_it_is_of(weights):
    pair = Pair(*pair_with(**weights), dtype=torch.float64).initialize(X)
    by = pieces()
    plain = by["likelihood"] + by["prior"] - by["posterior"]
    counted = sum(
        sign * weights.get(n, 1.0) * by[n] for n, sign in (("likelihood", 1), ("prior", 1), ("posterior", -1))
    )
    draws = {"num_samples": 20_000}
    assert (elbo(pair, X, **draws) - plain).abs().max() < 0.06
    assert (elbo(pair, X, weighted=True, **draws) - counted).abs().max() < 0.06
    with pair.scope(), isolated_rng(0):
        terms = ELBO(num_particles=20_000).terms(pair, pair.rows(X).batch())
    assert (terms.value.detach() - counted).abs().max() < 0.06
    assert abs(float(terms.elbo.detach()) - float(plain.mean())) < 0.02
    with pytest.warns(UserWarning, match=r"log_evidence: .* bears a weight \(poutine.scale\)"):
        found = log_evidence(pair, X)
    assert ((found.value - EXACT).abs() < 5 * found.standard_error + 0.02).all()


def test_it_is_said_once_a_pair_and_by_name():
    pair = Pair(*pair_with(likelihood=0.3), dtype=torch.float64)
    with pytest.warns(UserWarning, match="'x' bears a weight"):
        log_evidence(pair, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_evidence(pair, X)
        parts = decomposition(pair, X)
        text = str(verdict(pair, X))
        log_evidence(Pair(*pair_with(), dtype=torch.float64), X)
    # The verdict compares like with like: both of the model without weights.
    torch.testing.assert_close(parts.evidence.value - parts.elbo, parts.gap, rtol=0, atol=1e-12)
    assert f"the ELBO is {float(parts.gap.mean()):.1f}" in text or f"{float(parts.gap.mean()):.2g}" in text


def test_the_history_has_both():
    engine = VariationalEM(*pair_with(likelihood=0.3), lr=0.01, dtype=torch.float64, objective=ELBO(num_particles=500))
    fit = engine.fit(X, steps=3, progress=False)
    last = fit.history.iloc[-1]
    assert abs(last["objective"] - float(fit.elbo(X, weighted=True, num_samples=4000).mean())) < 0.05
    assert abs(last["elbo"] - float(fit.elbo(X, num_samples=4000).mean())) < 0.05
    assert last["objective"] - last["elbo"] > 0.5
    theirs = VariationalEM(*pair_with(likelihood=0.3), objective=Trace_ELBO(), dtype=torch.float64)
    last = theirs.fit(X, steps=3, progress=False).history.iloc[-1]
    assert last["objective"] == last["objective"] and last["elbo"] != last["elbo"]  # Pyro's number is the weighted one


def test_a_weight_that_has_been_annealed_away_is_none():
    """It is asked for when the evidence is, and not in the first step."""
    weight = {"now": 0.1}

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=weight["now"]):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pair = Pair(model, pair_with()[1], dtype=torch.float64).initialize(X)
    weight["now"] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_evidence(pair, X)
    weight["now"] = 0.5
    with pytest.warns(UserWarning, match="'z' bears a weight"):
        log_evidence(pair, X)


def test_weights_by_entry_of_an_inner_plate_stay_with_their_entries():
    """Summed first and weighed after, they went to other rows."""
    table = torch.randn(N, N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    scale = torch.rand(N, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def model(x):
        with pyro.plate("data", N, dim=-2), pyro.plate("entries", N, dim=-1), poutine.scale(scale=scale):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    pair = Pair(model, lambda x: None, data_plate="data", dtype=torch.float64).initialize(table)
    right = (scale * dist.Normal(0.0, 1.0).log_prob(table)).sum(-1)
    torch.testing.assert_close(elbo(pair, table, weighted=True), right, rtol=0, atol=1e-10)
    with pair.scope():
        torch.testing.assert_close(ELBO().terms(pair, pair.rows(table).batch()).value, right, rtol=0, atol=1e-10)


def test_discrete_latents_are_weighted_exactly():
    probs = torch.tensor([0.2, 0.8], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                c = pyro.sample("c", dist.Categorical(probs))
            pyro.sample("x", dist.Normal(2.0 * c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=torch.stack([-x, x], -1)))

    pair = Pair(model, guide, dtype=torch.float64)
    log_q = torch.stack([-X, X], -1).log_softmax(-1)
    log_x = torch.stack([dist.Normal(2.0 * c, 1.0).log_prob(X) for c in (0, 1)], -1)
    for weight, found in ((1.0, elbo(pair, X)), (0.5, elbo(pair, X, weighted=True))):
        right = (log_q.exp() * (log_x + weight * probs.log() - log_q)).sum(-1)
        torch.testing.assert_close(found, right, rtol=0, atol=1e-10)


# -- subsampled plates -------------------------------------------------------------------------------------------------

TABLE = torch.randn(N, 12, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def columns(size, sequential=False):
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            if sequential:
                for i in pyro.plate("columns", x.shape[1], subsample_size=size):
                    pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[:, i : i + 1])
            else:
                with pyro.plate("columns", x.shape[1], subsample_size=size, dim=-1) as taken:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, taken])

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 0.3))

    return Pair(model, guide, data_plate="data", dtype=torch.float64)


def test_the_factor_of_a_subsampled_plate_is_no_weight():
    """An ELBO of some columns estimates that of all, in every column of the report."""
    whole, some = columns(None).initialize(TABLE), columns(4).initialize(TABLE)
    right = elbo(whole, TABLE, num_samples=4000)
    assert some.sites.subsampled == ("columns",) and not some.sites.weighted
    for weighted in (False, True):
        found = torch.stack([elbo(some, TABLE, num_samples=1, seed=s, weighted=weighted) for s in range(200)]).mean(0)
        assert (found - right).abs().mean() < 1.2  # without the factor it is 11 nats higher
    with some.scope(), isolated_rng(0):
        terms = [ELBO().terms(some, some.rows(TABLE).batch()) for _ in range(150)]
    for column in ("objective", "elbo"):
        assert abs(float(torch.stack([getattr(t, column) for t in terms]).mean() - right.mean())) < 1.0


@pytest.mark.parametrize("sequential", [False, True])
def test_no_evidence_is_read_off_an_estimate_of_log_p(sequential):
    if sequential:
        torch.manual_seed(0)
    some = columns(12 if sequential else 4, sequential).initialize(TABLE)
    if sequential:  # all of the columns: nothing is estimated
        assert not some.sites.subsampled
        log_evidence(some, TABLE)
        return
    for what in (log_evidence, decomposition):
        with pytest.raises(ValueError, match="whole plates are required, but 'columns' draws a subsample"):
            what(some, TABLE)
    with some.scope(), pytest.raises(ValueError, match="'x' stands in a plate that draws a subsample"):
        IWAE(2).terms(some, some.rows(TABLE).batch())


def test_the_data_plates_own_factor_is_no_weight():
    """Rows by ``subsample=index``: N/B is in the plate, and nobody warns of it."""

    def model(x, index):
        with pyro.plate("data", N, subsample=index):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    engine = VariationalEM(model, lambda x, index: pair_with_index(x, index), dtype=torch.float64, data_plate="data")
    fit = engine.fit(X, steps=4, batch_size=4, progress=False)
    assert not fit.sites.weighted and not fit.sites.subsampled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.log_evidence(X)


def pair_with_index(x, index):
    shift = pyro.param("shift", torch.zeros((), dtype=x.dtype))
    with pyro.plate("data", N, subsample=index):
        pyro.sample("z", dist.Normal(MEAN * x + shift, SD))


def test_the_log_likelihood_for_arviz_bears_no_weight():
    model, _ = pair_with(likelihood=0.3)
    fit = Fit(Pair(model, AutoNormal(model), dtype=torch.float64).initialize(X))
    data = fit.to_inference_data(X, num_samples=3, groups=("posterior", "log_likelihood"))
    z = torch.as_tensor(data.posterior["z"].values[0])
    right = dist.Normal(z, 1.0).log_prob(X)
    torch.testing.assert_close(torch.as_tensor(data.log_likelihood["x"].values[0]), right, rtol=0, atol=1e-6)
