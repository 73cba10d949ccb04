"""guide="auto": the first rung that is good enough, beside posteriors whose family and evidence are known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import ppl_vae
from ppl_vae import DeterministicVI
from ppl_vae.guides import AutoFlow
from ppl_vae.inference.ladder import Ladder

N = 30
LINE = torch.linspace(-1.0, 1.0, N, dtype=torch.float64)
Y = 0.5 + 2.0 * LINE + 0.3 * torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def regression(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.3), obs=y)


def exact_evidence(x, y) -> float:
    """log N(y; 0, 0.09 I + X Xᵀ)."""
    design = torch.stack([torch.ones_like(x), x], 1)
    covariance = 0.09 * torch.eye(len(x), dtype=x.dtype) + design @ design.T
    return float(dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))


def funnel():
    """Without data, so log Z = 0: how wide y is depends on x, as in no normal."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, x.exp()))


def tied_funnel(loc):
    """No normal is good for it; a full covariance is better, and has another best loc."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, (2 * x).exp()))
    w = pyro.sample("w", dist.Normal(1.5 * x.exp() + loc, 0.5))
    pyro.sample("seen", dist.Normal(w, 0.5), obs=torch.tensor(3.0))


@pytest.fixture(scope="module")
def climbed():
    return ppl_vae.fit(funnel)


def test_independent_latents_stop_at_mean_field():
    """A column with mean 0: the posterior of intercept and slope is independent, and normal."""
    fit = ppl_vae.fit(regression, (LINE, Y))
    assert isinstance(fit.guide, AutoNormal)
    assert list(fit.rungs.index) == ["mean field"]
    assert fit.certificate.given
    assert fit.rungs.loc["mean field", "elbo"] == pytest.approx(exact_evidence(LINE, Y), abs=1e-6)


def test_correlated_latents_stop_at_full_rank():
    x = LINE + 4.0
    fit = ppl_vae.fit(regression, data=(x, Y), seed=1)
    assert isinstance(fit.guide, AutoMultivariateNormal)
    assert list(fit.rungs.index) == ["mean field", "full rank"]
    assert list(fit.rungs["given"]) == [False, True]
    assert fit.rungs.loc["mean field", "why"] != ""
    exact = exact_evidence(x, Y)
    assert fit.rungs.loc["full rank", "elbo"] == pytest.approx(exact, abs=1e-6)
    assert fit.rungs.loc["mean field", "elbo"] < exact - 1.0
    assert (fit.rungs["seconds"] > 0).all()
    assert fit.config["way"] == "guide='auto': full rank, the first whose certificate is given"
    remarks = repr(fit.certificate)
    assert "  mean field " in remarks
    assert "  full rank " in remarks


def test_above_a_hundred_latents_low_rank_is_taken(monkeypatch):
    monkeypatch.setattr("ppl_vae.inference.ladder.ladder.MOST_FULL", 1)
    fit = ppl_vae.fit(regression, (LINE + 4.0, Y))
    assert list(fit.rungs.index) == ["mean field", "low rank"]
    assert fit.rungs.loc["low rank", "elbo"] == pytest.approx(exact_evidence(LINE + 4.0, Y), abs=1e-3)


def test_a_funnel_takes_a_flow(climbed):
    assert isinstance(climbed.guide, AutoFlow)
    assert list(climbed.rungs.index) == ["mean field", "full rank", "flow"]
    assert list(climbed.rungs["given"]) == [False, False, True]
    flow = climbed.rungs.loc["flow"]
    assert -0.05 < flow.elbo < 4 * flow.elbo_error
    assert flow.log_evidence == pytest.approx(0.0, abs=0.01)
    assert climbed.rungs.loc["full rank", "elbo"] < -0.4


def test_the_draws_of_the_flow_are_those_of_the_posterior(climbed):
    """Weighed by the ordinary road of the pair, which knows nothing of how the flow was trained."""
    draws = climbed.draw(None, 20_000, seed=1)
    x, y = (draws.values[name].double() for name in ("x", "y"))
    assert float(draws.log_weight.exp().mean()) == pytest.approx(1.0, abs=0.02)
    # log |y| = x + log |ε|, and log |ε| has mean -(γ + log 2) / 2 and variance π² / 8.
    mean, sd = -0.635181, math.sqrt(1 + math.pi**2 / 8)
    assert float(x.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(x.std()) == pytest.approx(1.0, abs=0.05)
    assert float(y.abs().log().mean()) == pytest.approx(mean, abs=0.08)
    assert float(y.abs().log().std()) == pytest.approx(sd, rel=0.05)
    evidence = ppl_vae.log_evidence(climbed, None)
    assert float(evidence.value) == pytest.approx(0.0, abs=0.02)


def test_a_flow_without_an_optimum_to_ask_for_says_so(climbed):
    certificate = climbed.certificate
    assert certificate.numbers["newton_decrement"] is None
    assert [line.holds for line in certificate.lines if line.what == "Newton decrement"] == [None]
    asked = {line.what: line.holds for line in certificate.lines if line.about == "posterior"}
    assert set(asked) == {"log Z", "k-hat", "posterior means and sds", "chains from its draws"}
    assert all(asked.values())
    assert certificate.sentence.startswith("Good: whether the fit is the best of its family was not asked")


def test_where_no_certificate_is_given_the_best_elbo_is_taken_with_its_own_parameters():
    """The mean field is tried last, and moves the model's parameter: the full rank gets its own back."""

    def model():
        tied_funnel(pyro.param("loc", torch.tensor(0.5)))

    fit = Ladder(model, rungs=("full rank", "mean field")).fit(None)
    alone = {g: DeterministicVI(model, g(model)).fit(None) for g in (AutoMultivariateNormal, AutoNormal)}
    assert not any(fit.rungs["given"])
    assert fit.config["way"] == "guide='auto': no certificate is given; full rank has the best ELBO"
    assert "no certificate is given; full rank has the best ELBO" in repr(fit.certificate)
    assert isinstance(fit.guide, AutoMultivariateNormal)
    own, other = (float(alone[g].params["loc"]) for g in (AutoMultivariateNormal, AutoNormal))
    assert abs(own - other) > 0.01
    assert float(fit.params["loc"]) == pytest.approx(own, abs=1e-6)


def test_module_parameters_are_put_back_too():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self):
            tied_funnel(self.loc)

    model = Model()
    Ladder(model, rungs=("full rank", "mean field")).fit(None)
    alone = Model()
    DeterministicVI(alone, AutoMultivariateNormal(alone)).fit(None)
    assert float(model.loc.detach()) == pytest.approx(float(alone.loc.detach()), abs=1e-6)


def test_rungs_survive_a_run_folder(climbed, tmp_path):
    climbed.save(tmp_path)
    loaded = ppl_vae.load(tmp_path, funnel, AutoFlow(funnel))
    assert loaded.rungs.equals(climbed.rungs)
    assert loaded.certificate == climbed.certificate
    assert torch.equal(loaded.draw(None, 50, seed=2).log_weight, climbed.draw(None, 50, seed=2).log_weight)


def test_a_fit_by_another_way_has_no_rungs():
    assert DeterministicVI(funnel, AutoNormal(funnel)).fit(None).rungs is None


def test_rungs_that_do_not_go_are_said():
    """One latent number: no covariance, and nothing that a coupling could split."""

    def wide():
        pyro.sample("x", dist.Cauchy(0.0, 1.0))

    fit = ppl_vae.fit(wide)
    assert list(fit.rungs["given"]) == [False, None, None]
    assert fit.rungs.loc["full rank", "why"] == "one latent number has no covariance"
    assert fit.rungs.loc["flow", "why"] == "a coupling needs two latent numbers at least"
    assert "flow not tried (a coupling needs two latent numbers at least)" in repr(fit.certificate)


def test_a_flow_alone_begins_at_a_normal(monkeypatch):
    monkeypatch.setattr("ppl_vae.inference.ladder.flow_rung.ROUNDS", (20,))
    fit = ppl_vae.fit(regression, (LINE + 4.0, Y), rungs=("flow",))
    assert list(fit.rungs.index) == ["flow"]
    assert fit.rungs.loc["flow", "elbo"] == pytest.approx(exact_evidence(LINE + 4.0, Y), abs=0.05)


def test_a_flow_begins_with_the_parameters_that_its_normal_was_fitted_with(monkeypatch):
    """The first step has the rate 0: what the flow's pair holds after it is what it began with."""
    monkeypatch.setattr("ppl_vae.inference.ladder.flow_rung.ROUNDS", (1,))

    def model():
        tied_funnel(pyro.param("loc", torch.tensor(0.5)))

    fit = ppl_vae.fit(model, rungs=("flow",))
    alone = DeterministicVI(model, AutoMultivariateNormal(model)).fit(None)
    assert isinstance(fit.guide, AutoFlow)
    assert float(fit.params["loc"]) == pytest.approx(float(alone.params["loc"]), abs=0.02)
    assert abs(float(alone.params["loc"]) - 0.5) > 0.1


def test_an_unbounded_elbo_is_not_given_to_a_flow():
    def improper():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", ppl_vae.distributions.Flat(dist.constraints.real))
        pyro.factor("tie", -x.abs(), has_rsample=True)

    fit = ppl_vae.fit(improper, rungs=("mean field", "flow"), max_iter=50)
    assert not fit.certificate.given
    assert fit.rungs.loc["flow", "given"] is None
    assert "has no optimum" in fit.rungs.loc["flow", "why"]


def discrete(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


REFUSED = {
    "a rate": (lambda: ppl_vae.fit(regression, (LINE, Y), lr=0.1), TypeError, "lr is of VariationalEM; give a guide"),
    "rungs beside a guide": (
        lambda: ppl_vae.fit(funnel, AutoNormal(funnel), rungs=("flow",)),
        TypeError,
        "rungs are of guide='auto'",
    ),
    "an unknown rung": (
        lambda: ppl_vae.fit(funnel, rungs=("planar",)),
        ValueError,
        "rungs of .* are required, got .*planar",
    ),
    "no rung": (lambda: ppl_vae.fit(funnel, rungs=()), ValueError, r"rungs of .* are required, got \(\)"),
    "a rung without a list": (
        lambda: ppl_vae.fit(funnel, rungs="flow"),
        ValueError,
        "rungs of .* are required, got 'flow'",
    ),
    "an unknown option": (lambda: ppl_vae.fit(funnel, stpes=3), TypeError, r"unknown options \['stpes'\]"),
    "discrete latents": (lambda: ppl_vae.fit(discrete, LINE), ValueError, "discrete"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
