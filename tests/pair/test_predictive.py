"""The posterior predictive against closed forms: shared latents from the guide, a datum's own from the model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, data_for, shared_mean
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import ppl_vae
from ppl_vae import Fit, Pair
from ppl_vae.commands import samples
from ppl_vae.pair import predictive

PRIOR, NOISE, SPREAD = 10.0, 0.5, 0.3
X = 5 + NOISE * torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VARIANCE = 1 / (1 / PRIOR**2 + len(X) / NOISE**2)
MEAN = VARIANCE * float(X.sum()) / NOISE**2


def fitted(model, guide, data) -> Fit:
    """A pair whose guide is the exact posterior already."""
    return Fit(Pair(model, guide, dtype=torch.float64).initialize(data), config={"num_data": len(X)})


def normal_mean(x: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(0.0, PRIOR))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, NOISE), obs=x)


def exact_mean(x: Tensor) -> None:
    pyro.sample("m", dist.Normal(MEAN, math.sqrt(VARIANCE)))


def amortized_mean(x: Tensor) -> None:
    variance = 1 / (1 / PRIOR**2 + len(x) / NOISE**2)
    pyro.sample("m", dist.Normal(variance * x.sum() / NOISE**2, math.sqrt(variance)))


def near(draws: Tensor, mean: float, variance: float) -> bool:
    """Within 4.5 standard errors of both moments."""
    error = math.sqrt(variance / len(draws))
    ratio = float(draws.var()) / variance
    return abs(float(draws.mean()) - mean) < 4.5 * error and abs(ratio - 1) < 4.5 * math.sqrt(2 / len(draws))


def test_samples_are_of_the_posterior_predictive():
    fit = fitted(normal_mean, exact_mean, X)
    draws = fit.sample(4000, seed=1)
    assert draws.shape == (4000,)
    assert near(draws, MEAN, NOISE**2 + VARIANCE)
    means = fit.sample(4000, seed=1, mean=True)  # each of the rows has a draw of m of its own
    assert near(means, MEAN, VARIANCE)
    assert torch.equal(draws, fit.sample(4000, seed=1))
    assert not torch.equal(draws[:50], fit.sample(50, seed=2))


def test_simulations_stay_those_of_the_prior():
    fit = fitted(normal_mean, exact_mean, X)
    draws = torch.stack([fit.simulate(1, seed=seed)["x"][0] for seed in range(400)])
    assert near(draws, 0.0, PRIOR**2 + NOISE**2)


def test_the_latents_of_a_new_datum_are_the_models():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, PRIOR))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, SPREAD))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    def guide(x):
        exact_mean(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(-100.0 + x, 0.1))

    fit = fitted(model, guide, X)
    assert near(fit.sample(4000), MEAN, NOISE**2 + SPREAD**2 + VARIANCE)
    # decode and predict with the datum's own latent alone: what is shared is the guide's
    assert float(fit.decode({"z": torch.full((3,), 2.0)})[0]) == pytest.approx(2.0)
    assert fit.posterior_predictive(X, num_samples=50)["x"].mean() < -80  # replicates, by the guide's z of these rows


@pytest.mark.parametrize("make", ["alone", "beside z"])
def test_decode_and_predict_take_what_is_shared_from_the_guide(make):
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, PRIOR))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + m, NOISE), obs=x)

    def guide(x):
        exact_mean(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 0.1))

    fit = fitted(model, guide, X)
    z = torch.zeros(3000, len(X))
    if make == "alone":
        torch.testing.assert_close(fit.decode({"z": z[0]}), torch.full((len(X),), MEAN, dtype=torch.float64))
        assert near(
            torch.stack([fit.decode({"z": z[0, :1]}, mean=False, seed=s)[0] for s in range(60)]),
            MEAN,
            NOISE**2 + VARIANCE,
        )
    else:
        assert near(fit.predict(X, {"z": z})["x"][:, 3], MEAN, NOISE**2 + VARIANCE)
        assert fit.predict(X, {"z": z[:4], "m": torch.full((4,), -50.0)})["x"].mean() < -45


# rows without y

COVARIATES = torch.randn(len(X), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = COVARIATES @ torch.tensor([1.0, -2.0], dtype=torch.float64) + X - 5
PRECISION = torch.eye(2, dtype=torch.float64) + COVARIATES.T @ COVARIATES / NOISE**2
WEIGHTS = torch.linalg.solve(PRECISION, COVARIATES.T @ Y / NOISE**2)
NEW = torch.tensor([[1.0, 1.0], [3.0, -1.0], [0.0, 0.0]], dtype=torch.float64)


def regression(x: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((w * x).sum(-1), NOISE), obs=y)


def exact_weights(x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("w", dist.MultivariateNormal(WEIGHTS, precision_matrix=PRECISION))


def test_a_regression_predicts_the_mean_and_variance_of_the_closed_form():
    fit = fitted(regression, exact_weights, (COVARIATES, Y))
    found = fit.posterior_predictive(NEW, num_samples=4000)["y"]
    assert found.shape == (4000, 3)
    spread = NEW @ torch.linalg.inv(PRECISION) @ NEW.T
    for i in range(3):
        assert near(found[:, i], float(NEW[i] @ WEIGHTS), float(spread[i, i]) + NOISE**2)
    means = fit.posterior_predictive(NEW, num_samples=4000, mean=True)["y"]
    torch.testing.assert_close(torch.cov(means.T), spread, rtol=0.1, atol=1e-3)  # one draw of w for all rows
    with_y = fit.posterior_predictive((NEW, torch.full((3,), 99.0)), num_samples=4000)["y"]
    assert near(with_y[:, 0], float(NEW[0] @ WEIGHTS), float(spread[0, 0]) + NOISE**2)
    samples = fit.sample(60 * len(X), mean=True)  # at the rows of the fit, in turn
    torch.testing.assert_close(samples.reshape(60, -1).mean(0), COVARIATES @ WEIGHTS, rtol=0, atol=0.2)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        fit.posterior_predictive(NEW, num_samples=0)


def test_inference_data_of_rows_without_y():
    fit = fitted(regression, exact_weights, (COVARIATES, Y))
    idata = fit.to_inference_data(NEW, num_samples=2000, num_predictive=2000)
    assert idata["posterior"]["w"].shape == (1, 2000, 2)
    draws = torch.as_tensor(idata["posterior_predictive"]["y"].values[0])
    assert near(draws[:, 1], float(NEW[1] @ WEIGHTS), float(NEW[1] @ torch.linalg.inv(PRECISION) @ NEW[1]) + NOISE**2)
    for group in ("log_likelihood", "sample_stats"):
        assert group not in (idata.groups() if callable(idata.groups) else idata.children)
    with pytest.raises(ValueError, match="log_likelihood require data that the model observes, got rows without 'y'"):
        fit.to_inference_data(NEW, groups=("posterior", "log_likelihood"))
    full = fit.to_inference_data((COVARIATES, Y), num_samples=10)
    assert full["log_likelihood"]["y"].shape == (1, 10, len(X))


# the rows of the fit


def test_a_guide_of_the_data_needs_the_rows_of_the_fit():
    def guide(x):
        pyro.param("unused", torch.zeros(()))
        amortized_mean(x)

    fit = ppl_vae.fit(normal_mean, guide, X, steps=1, progress=False)
    assert predictive.follows_the_rows(fit.pair)
    assert near(fit.sample(3000), MEAN, NOISE**2 + VARIANCE)
    fit.release()
    for call in (
        lambda **options: fit.sample(3000, **options),
        lambda **options: fit.posterior_predictive(X[:3], num_samples=3000, **options)["x"][:, 0],
    ):
        with pytest.raises(ValueError, match="the posterior of 'm', which all data share, hangs on the rows"):
            call()
        assert near(call(fitted_to=X), MEAN, NOISE**2 + VARIANCE)


def test_the_command_gives_the_rows_of_the_run_where_they_are_asked_for():
    read = []

    def opened(guide):
        fit = fitted(normal_mean, guide, X).release()
        dataset = lambda: read.append(guide) or SimpleNamespace(train=X)  # noqa: E731
        return SimpleNamespace(fit=fit, dataset=dataset, origin=SimpleNamespace(scale=None))

    for guide in (exact_mean, amortized_mean):
        assert near(samples.draw(opened(guide), 2000), MEAN, NOISE**2 + VARIANCE)
    assert read == [amortized_mean]


def test_a_guide_of_parameters_alone_needs_none():
    fit = fitted(normal_mean, exact_mean, X).release()
    assert not predictive.follows_the_rows(fit.pair)
    assert len(fit.pair.template) == 2
    assert near(fit.sample(3000), MEAN, NOISE**2 + VARIANCE)


# summed latents


def switched(x: Tensor) -> None:
    c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(c - 0.5, 3.0), obs=x)


def test_a_shared_latent_that_is_summed_out_has_its_posterior_by_bayes():
    x = torch.tensor([1.0, 0.5, 0.8, -0.1, 0.9], dtype=torch.float64)
    logit = (dist.Normal(0.5, 3.0).log_prob(x) - dist.Normal(-0.5, 3.0).log_prob(x)).sum()
    fit = Fit(Pair(switched, lambda x: None, dtype=torch.float64).initialize(x), config={"num_data": 5})
    share = (fit.sample(2000, mean=True) > 0).double()
    p = float(logit.sigmoid())
    assert abs(p - 0.5) > 0.05
    assert near(share, p, p * (1 - p))
    with pytest.raises(ValueError, match="the posterior of 'c'"):
        fit.release().sample(3)


def mixture(x: Tensor) -> None:
    weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(100 * c, 0.1), obs=x)


def test_a_new_datums_class_is_the_models():
    """All rows are of the class 0; the guide says that a fifth are of the class 1."""
    x = torch.zeros(12, dtype=torch.float64)

    def guide(x):
        pyro.sample("weight", dist.Beta(20.0, 80.0))

    fit = fitted(mixture, guide, x)
    assert near((fit.sample(3000) > 50).double(), 0.2, 0.16)
    assert (fit.posterior_predictive(x, num_samples=50)["x"] < 50).all()  # replicates of these rows, by their class
    idata = fit.to_inference_data(x, num_samples=2000, num_predictive=2000)
    # Before anything is seen, half of the data are of either class: the class is not that of the rows.
    assert (idata["prior_predictive"]["x"].values > 50).mean() == pytest.approx(0.5, abs=0.03)
    assert (idata["posterior_predictive"]["x"].values < 50).all()


# kinds of pairs


def test_draws_one_by_one_are_the_same_in_distribution(monkeypatch):
    fit = fitted(normal_mean, exact_mean, X)
    monkeypatch.setattr(fit.pair.runner, "vectorizes", lambda batch: False)
    assert near(fit.sample(1500), MEAN, NOISE**2 + VARIANCE)
    assert fit.posterior_predictive(X, num_samples=5)["x"].shape == (5, len(X))


@pytest.mark.parametrize("n", [3, 20, 50])
def test_a_plate_of_a_fixed_size(n):
    def model(t, x):
        m = pyro.sample("m", dist.Normal(0.0, PRIOR))
        with pyro.plate("data", len(X)):
            pyro.sample("x", dist.Normal(m + t, NOISE), obs=x)

    fit = fitted(model, lambda t, x: exact_mean(x), (100 * torch.arange(20.0, dtype=torch.float64), X))
    found = fit.sample(n, mean=True)
    assert found.shape == (n,)
    torch.testing.assert_close(found, MEAN + 100.0 * (torch.arange(n, dtype=torch.float64) % 20), rtol=0, atol=1.0)


def test_a_model_without_data_to_be_called_with():
    def model():
        m = pyro.sample("m", dist.Normal(0.0, PRIOR))
        with pyro.plate("rows", len(X)):
            pyro.sample("x", dist.Normal(m, NOISE), obs=X)

    fit = Fit(Pair(model, lambda: exact_mean(X), dtype=torch.float64).initialize(None))
    found = fit.sample(2000)
    assert found.shape == (2000, len(X))
    assert near(found[:, 3], MEAN, NOISE**2 + VARIANCE)
    assert fit.posterior_predictive(None, num_samples=7)["x"].shape == (7, len(X))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].joint])
def test_every_pair_with_shared_latents_predicts(name):
    case = CASES[name]
    x = data_for(case)
    fit = ppl_vae.VariationalEM(*case.make()).fit(x, steps=2, progress=False)
    site = next(iter(fit.observed))
    found = fit.posterior_predictive(x, num_samples=3)[site]
    assert found.shape[:2] == (3, 20) and found.isfinite().all()
    assert torch.as_tensor(fit.sample(35)).shape == (35, *found.shape[2:])


def test_an_autoguide_of_rows_has_no_posterior_of_others():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    fit = ppl_vae.fit(model, AutoNormal(model), X, steps=2, progress=False)
    assert fit.sample(40).shape == (40,)
    with pytest.raises(ValueError, match="AutoNormal has a posterior of 'z' for 20 rows, got 3 other rows"):
        fit.posterior_predictive(X[:3])


def test_a_loaded_fit_samples_as_before(tmp_path):
    x = data_for(CASES["AutoNormal"])
    fit = ppl_vae.fit(shared_mean, AutoNormal(shared_mean), x, steps=2, progress=False)
    fit.save(tmp_path / "run")
    again = ppl_vae.load(tmp_path / "run", shared_mean, AutoNormal(shared_mean))
    torch.testing.assert_close(again.sample(40, seed=3), fit.sample(40, seed=3))
