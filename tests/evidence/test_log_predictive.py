"""log p(test | rows of the fit) against closed forms and quadrature."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from regressions import Conjugate, diabetes
from torch import Tensor

import ppl_vae
from ppl_vae import Pair
from ppl_vae.evidence import log_predictive
from ppl_vae.result import Fit

DOUBLE = torch.float64
SIGMA = 4.5
X, Y = diabetes()
TRAIN, TEST = (X[:80], Y[:80]), (X[80:92], Y[80:92])
REGRESSION = Conjugate(*TRAIN)


def off(found, exact: Tensor) -> float:
    """The greatest error, in errors told."""
    return float(((found.value - exact).abs() / found.standard_error).max())


@pytest.mark.parametrize("model", ["model", "as_most_write_it"])
@pytest.mark.parametrize("guide", [{}, {"sd": 0.7}, {"sd": 1.2, "shift": 0.8}])
def test_weighted_draws_give_the_predictive_density_whatever_the_guide_is(model, guide):
    fit = REGRESSION.fit(getattr(REGRESSION, model), **guide)
    found = fit.log_predictive(TEST, num_samples=3000)
    exact = REGRESSION.log_predictive(*TEST)
    assert found.value.shape == found.standard_error.shape == found.khat.shape == (12,)
    assert found.local == "none"
    assert off(found, exact) < SIGMA
    assert float(found.standard_error.max()) < 0.1
    mean = found.mean()
    assert abs(mean.value - float(exact.mean())) < SIGMA * mean.standard_error
    assert mean.sampling_error == pytest.approx(float(found.value.std()) / math.sqrt(12))
    together = REGRESSION.log_predictive_together(*TEST)
    assert abs(found.joint.value - together) < SIGMA * found.joint.standard_error
    assert abs(together - float(exact.sum())) > 0.01  # rows share w


def test_the_twin_plain_draws_say_what_the_guide_says_and_not_the_posterior():
    narrow = REGRESSION.fit(sd=0.4, shift=3.0)
    exact = REGRESSION.log_predictive(*TEST)
    found = narrow.log_predictive(TEST, num_samples=3000, weighted=False)
    assert off(found, exact) > 3 * SIGMA
    tril = torch.linalg.cholesky(REGRESSION.covariance)
    loc = REGRESSION.mean + 3.0 * tril.sum(1) / math.sqrt(10)
    variance = REGRESSION.noise**2 + 0.16 * (TEST[0] @ REGRESSION.covariance * TEST[0]).sum(-1)
    of_guide = dist.Normal(TEST[0] @ loc, variance.sqrt()).log_prob(TEST[1])
    assert off(found, of_guide) < SIGMA
    told = narrow.log_predictive(TEST, num_samples=3000)
    assert "NOT TO BE BELIEVED: k-hat of the weights is" in repr(told)
    assert not told.reliable.any()


def test_log_evidence_of_test_rows_is_under_the_prior():
    """The two differ by nats: what the rows of the fit have taught."""
    fit = REGRESSION.fit()
    prior, predictive = REGRESSION.log_prior_predictive(*TEST), REGRESSION.log_predictive_together(*TEST)
    assert (round(prior, 2), round(predictive, 2)) == (-18.86, -9.81)  # docs/held_out.md
    assert abs(float(fit.log_evidence(TEST, ppl_vae.NaiveMonteCarlo(200_000)).value) - prior) < 0.5
    assert abs(fit.log_predictive(TEST).joint.value - predictive) < 0.1
    whole = Conjugate(X[:92], Y[:92]).log_prior_predictive
    chain = whole(X[:92], Y[:92]) - whole(*TRAIN)  # p(test | train) = p(train, test) / p(train)
    assert predictive == pytest.approx(chain, abs=1e-8)


def test_the_error_counts_what_the_weights_scatter():
    """Over 40 seeds the values scatter as the errors say; without the normalizer's noise they would not."""
    fit = REGRESSION.fit(sd=0.8)
    found = [fit.log_predictive(TEST, num_samples=400, seed=seed) for seed in range(40)]
    values, errors = torch.stack([f.value for f in found]), torch.stack([f.standard_error for f in found])
    ratio = values.std(0) / errors.square().mean(0).sqrt()
    assert 0.75 < float(ratio.median()) < 1.25
    for of_all in ([f.mean() for f in found], [f.joint for f in found]):
        values, errors = (torch.tensor([getattr(a, name) for a in of_all]) for name in ("value", "standard_error"))
        assert 0.6 < float(values.std() / errors.square().mean().sqrt()) < 1.5


# -- latents of single data --------------------------------------------------------------------------------------------

PRIOR, NOISE, SPREAD = 3.0, 0.5, 0.8
GENERATOR = torch.Generator().manual_seed(0)
ROWS = 2.0 + math.hypot(NOISE, SPREAD) * torch.randn(30, generator=GENERATOR, dtype=DOUBLE)
NEW = torch.tensor([2.0, 4.0, -0.5], dtype=DOUBLE)
VARIANCE = 1 / (PRIOR**-2 + len(ROWS) / (NOISE**2 + SPREAD**2))
MEAN = VARIANCE * float(ROWS.sum()) / (NOISE**2 + SPREAD**2)
EXACT = dist.Normal(MEAN, math.sqrt(VARIANCE + NOISE**2 + SPREAD**2)).log_prob(NEW)


def levels(x: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(x.new_zeros(()), PRIOR))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(m, SPREAD))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def amortized(x: Tensor) -> None:
    """m too narrow, and of each datum a posterior that is off."""
    m = pyro.sample("m", dist.Normal(x.new_tensor(MEAN + 0.1), 0.8 * math.sqrt(VARIANCE)))
    share = SPREAD**2 / (SPREAD**2 + NOISE**2)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.9 * (m + share * (x - m)), 0.8 * NOISE * math.sqrt(share)))


def fitted(model, guide, data=ROWS) -> Fit:
    return Fit(Pair(model, guide, dtype=DOUBLE).initialize(data), config={"num_data": len(ROWS)})


@pytest.mark.parametrize(
    ("local", "told", "count"), [("guide", "drawn from the guide", 32), ("prior", "drawn from the model", 128)]
)
def test_latents_of_single_data_are_integrated_out(local, told, count):
    fit = fitted(levels, amortized)
    found = log_predictive(fit, NEW, local=local, num_samples=2000, num_local=count)
    assert found.local == told
    assert off(found, EXACT) < SIGMA
    assert float(found.standard_error.max()) < 0.12
    assert not found.warning
    auto = log_predictive(fit, NEW, num_samples=20)
    assert auto.local == "drawn from the guide"


def test_weights_have_the_latents_of_single_data_integrated_out():
    """A weight of all latents at once scatters with the number of rows."""
    fit = fitted(levels, amortized)
    found = log_predictive(fit, NEW, num_samples=2000)
    at_once = fit.weighted_draws(ROWS, 2000)
    assert found.weights_khat < 0.5
    assert float(at_once.khat) > 0.6
    assert float(at_once.ess) < 100


def test_a_joint_guide_and_one_of_the_rows_of_the_fit_leave_local_latents_to_the_model():
    for guide in (AutoMultivariateNormal(levels, init_scale=0.1), AutoNormal(levels, init_scale=0.1)):
        fit = ppl_vae.fit(levels, guide, ROWS, steps=1, progress=False)
        found = log_predictive(fit, NEW.float(), weighted=False, num_samples=50)
        assert found.local == "drawn from the model"
        with pytest.raises(ValueError, match=f"{type(guide).__name__} cannot propose the latents of a datum"):
            log_predictive(fit, NEW.float(), weighted=False, num_samples=50, local="guide")


def test_a_guide_that_names_the_rows_of_the_fit_leaves_other_rows_to_the_model():
    def guide(x: Tensor, index: Tensor | None = None) -> None:
        pyro.sample("m", dist.Normal(x.new_tensor(MEAN), math.sqrt(VARIANCE)))
        loc = pyro.param("loc", lambda: ROWS.clone())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc if index is None else loc[index], 0.5))

    fit = fitted(levels, guide)
    found = fit.log_predictive(NEW, weighted=False)
    assert found.local == "drawn from the model"
    assert off(found, EXACT) < SIGMA
    with pytest.raises(ValueError, match="a free posterior exists only for the 30 rows"):
        fit.log_predictive(NEW, weighted=False, local="guide")


def test_a_joint_guide_is_weighed_by_all_latents_at_once():
    few = ROWS[:3]
    variance = 1 / (PRIOR**-2 + len(few) / (NOISE**2 + SPREAD**2))
    mean = variance * float(few.sum()) / (NOISE**2 + SPREAD**2)
    fit = ppl_vae.DeterministicVI(levels, AutoMultivariateNormal(levels)).fit(few)
    found = fit.log_predictive(NEW)
    assert found.local == "drawn from the model"
    exact = dist.Normal(mean, math.sqrt(variance + NOISE**2 + SPREAD**2)).log_prob(NEW)
    assert off(found, exact) < SIGMA
    assert not found.warning


def classes(x: Tensor, summed: bool) -> None:
    m = pyro.sample("m", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"} if summed else {})
        pyro.sample("x", dist.Normal(m + 3 * c, 1.0), obs=x)


def log_x_of_classes(x: Tensor, m: Tensor) -> Tensor:
    """log p(x_n | m), (M, N)."""
    zero, one = (dist.Normal(m.unsqueeze(1) + 3.0 * c, 1.0).log_prob(x) for c in (0, 1))
    return torch.logaddexp(zero + math.log(0.7), one + math.log(0.3))


@pytest.mark.parametrize("summed", [True, False])
def test_classes_are_summed_out_by_the_model_or_here(summed):
    rows = torch.tensor([0.4, 3.1, 0.9, -0.2, 3.9, 0.1], dtype=DOUBLE)

    def guide(x: Tensor) -> None:
        pyro.sample("m", dist.Normal(x.new_tensor(0.4), 0.4))
        if not summed:
            with pyro.plate("data", len(x)):
                pyro.sample("c", dist.Bernoulli(logits=x - 1.0))

    fit = fitted(lambda x: classes(x, summed), guide, rows)
    found = fit.log_predictive(NEW)
    m = torch.linspace(-6, 6, 4001, dtype=DOUBLE)
    posterior = (log_x_of_classes(rows, m).sum(1) + dist.Normal(0.0, 1.0).log_prob(m)).log_softmax(0)
    exact = (posterior.unsqueeze(1) + log_x_of_classes(NEW, m)).logsumexp(0)
    assert found.local == ("none" if summed else "summed out")
    assert off(found, exact) < SIGMA
    assert float(found.standard_error.max()) < 0.06


def test_a_latent_drawn_given_a_summed_one_is_drawn_with_it():
    """z hangs on c, which the model sums out: a sum over c would hold the density of z too."""

    def model(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(m + 3 * c, 0.6))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(x.new_tensor(0.5), 1e-6))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(m + 0.4 * (x - m), 0.9))

    exact = log_x_of_classes(NEW, torch.tensor([0.5], dtype=DOUBLE))[0]
    fit = fitted(model, guide, ROWS[:2])
    for local in ("guide", "prior"):
        found = fit.log_predictive(NEW, weighted=False, local=local, num_samples=1000)
        assert off(found, exact) < SIGMA, local
        assert float(found.standard_error.max()) < 0.05


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_shared_latents_log_evidence_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    with pytest.raises(ValueError, match="all of 'z' are a datum's own.*log_evidence"):
        fitted(model, guide).log_predictive(NEW)


def test_rows_that_do_not_fit_are_refused():
    fit = REGRESSION.fit()
    with pytest.raises(ValueError, match=r"\(N, ..., 10\) as in the fit are required, got \(12, 9\)"):
        fit.log_predictive((TEST[0][:, :9], TEST[1]))
    with pytest.raises(ValueError, match="rows with all that the model observes are required, got rows without 'y'"):
        fit.log_predictive((TEST[0],))
    with pytest.raises(ValueError, match="at least one row is required"):
        fit.log_predictive((TEST[0][:0], TEST[1][:0]))
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        fit.log_predictive(TEST, num_samples=1)
    with pytest.raises(ValueError, match="local must be 'auto', 'guide' or 'prior', got 'posterior'"):
        fit.log_predictive(TEST, local="posterior")


def test_a_released_fit_asks_for_its_rows_and_plain_draws_do_without():
    fit = REGRESSION.fit().release()
    with pytest.raises(ValueError, match="give them as fitted_to="):
        fit.log_predictive(TEST)
    assert off(fit.log_predictive(TEST, fitted_to=TRAIN), REGRESSION.log_predictive(*TEST)) < SIGMA
    assert off(fit.log_predictive(TEST, weighted=False), REGRESSION.log_predictive(*TEST)) < SIGMA


def test_a_point_mass_has_no_posterior_to_average_over():
    fit = ppl_vae.fit(REGRESSION.model, AutoDelta(REGRESSION.model), TRAIN, steps=1, progress=False)
    with pytest.raises(ValueError, match="log_predictive|weighted_draws: a guide with a density is required"):
        fit.log_predictive(TEST)


def test_a_shared_latent_that_is_summed_out_takes_plain_draws():
    def model(x):
        c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(3.0 * c, 3.0), obs=x)

    rows = torch.tensor([1.0, 2.5, 0.8], dtype=DOUBLE)
    fit = Fit(Pair(model, lambda x: None, dtype=DOUBLE).initialize(rows), config={"num_data": 3})
    with pytest.raises(ValueError, match="the model sums out 'c'.*weighted=False"):
        fit.log_predictive(NEW)
    one = (dist.Normal(3.0, 3.0).log_prob(rows) - dist.Normal(0.0, 3.0).log_prob(rows)).sum().sigmoid()
    exact = torch.logaddexp(
        one.log() + dist.Normal(3.0, 3.0).log_prob(NEW), (1 - one).log() + dist.Normal(0.0, 3.0).log_prob(NEW)
    )
    assert off(fit.log_predictive(NEW, weighted=False), exact) < SIGMA


def test_a_frame_with_the_rows_names_and_a_sentence():
    import pandas as pd

    frame = pd.DataFrame({"x": NEW.numpy()}, index=["a", "b", "c"])

    def model(x):
        m = pyro.sample("m", dist.Normal(x.new_zeros(()), PRIOR))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, NOISE).expand((len(x), 1)).to_event(1), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(x.new_tensor(2.0), 0.1))

    fit = fitted(model, guide, ROWS.unsqueeze(1))
    found = fit.log_predictive(frame)
    table = found.to_dataframe()
    assert list(table.index) == ["a", "b", "c"]
    assert list(table.columns) == ["value", "standard_error", "khat"]
    assert "3 rows, mean" in repr(found) and "4000 weighted draws of the guide" in repr(found)


def test_a_column_is_not_numbers():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)

    x = torch.linspace(-1, 1, 6)
    pair = Pair(model, AutoNormal(model)).initialize((x, x))
    with pytest.raises(ValueError, match=r"\(N,\) as in the fit are required for argument 1, got a column \(N, 1\)"):
        log_predictive(pair, (x, x[:, None]), fitted_to=(x, x))

    def of_a_column(x, y):
        model(x[:, 0], y)

    column = Pair(of_a_column, AutoNormal(of_a_column)).initialize((x[:, None], x))
    with pytest.raises(ValueError, match=r"\(N, 1\) as in the fit are required for argument 0, got \(N,\)"):
        column.log_joint((x, x), {"w": torch.zeros(1)})
