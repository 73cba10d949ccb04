"""Numbers of replicated data against their known laws, and what is said of p-values that are not uniform."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from regressions import DOUBLE
from scipy.stats import binom, kstest
from torch.distributions import constraints

from ppl_vae.data import Rows
from ppl_vae.diagnostics import predictive_check
from ppl_vae.distributions import Flat
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.pair import Pair
from ppl_vae.result import Fit

ROWS = 12
X = torch.randn(ROWS, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)) + 0.4


def location(x):
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def exact_location(x):
    pyro.sample("mu", dist.Normal(x.sum() / (1 + len(x)), (1 + len(x)) ** -0.5))


def pair_of_location() -> Pair:
    return Pair(location, exact_location, dtype=DOUBLE).initialize(X)


def within(found, truth, error):
    return abs(float(found) - float(truth)) < 4.5 * float(error)


# -- known laws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["posterior", "mixed", "prior"])
def test_replicates_of_a_normal_mean_have_their_law(kind):
    """The mean is normal; P(max <= t) is E[Phi(t - mu)^N]."""
    mean, variance = (0.0, 1.0) if kind == "prior" else (float(X.sum()) / (1 + ROWS), 1 / (1 + ROWS))
    found = predictive_check(
        pair_of_location(), None, {"mean": torch.mean, "max": torch.max}, kind=kind, num_samples=3000
    )
    assert found.replicated.shape == (3000, 2) and found.names == ("mean", "max")
    of_mean = dist.Normal(mean, (variance + 1 / ROWS) ** 0.5)
    assert kstest(found.replicated[:, 0].numpy(), _cdf(of_mean)).pvalue > 1e-4
    mu = torch.linspace(-6, 6, 4001, dtype=DOUBLE)
    weight = dist.Normal(mean, variance**0.5).log_prob(mu).softmax(0)

    def of_max(t):
        return (weight * dist.Normal(mu, 1.0).cdf(torch.as_tensor(t, dtype=DOUBLE).unsqueeze(-1)) ** ROWS).sum(-1)

    assert kstest(found.replicated[:, 1].numpy(), lambda t: of_max(t).numpy()).pvalue > 1e-4
    for place, truth in enumerate((1 - of_mean.cdf(X.mean()), 1 - of_max(float(X.max())))):
        assert within(found.p_values[place], truth, found.standard_errors[place])
    torch.testing.assert_close(found.observed, torch.stack([X.mean(), X.max()]))


def _cdf(law):
    return lambda t: law.cdf(torch.as_tensor(t, dtype=DOUBLE)).numpy()


def test_a_row_s_own_latents_are_given_the_row_in_posterior_and_are_new_in_mixed_checks(exact_pair, x):
    """The first column: x* = w z* + noise, with z* of the posterior given that row, or of the prior."""
    weight, noise = 1.5, 0.6  # of the conftest of this folder
    precision = 1 + (weight / noise) ** 2
    centers = x[:, 0] * (weight / noise) ** 2 / precision
    laws = {
        "posterior": (float(centers.mean()), weight**2 / precision + noise**2),
        "mixed": (0.0, weight**2 + noise**2),
    }
    for kind, (mean, variance) in laws.items():
        found = predictive_check(exact_pair, x, {"mean": lambda x: x[:, 0].mean()}, kind=kind, num_samples=1000)
        law = dist.Normal(torch.tensor(mean, dtype=DOUBLE), (variance / len(x)) ** 0.5)
        assert kstest(found.replicated[:, 0].numpy(), _cdf(law)).pvalue > 1e-4
    assert found.replicates["x"].shape == (50, len(x), 4)


def test_posterior_p_values_crowd_around_a_half_and_prior_ones_are_uniform():
    """Of the mean of N rows, in data that the model makes; the first have a closed form."""
    pair, found = pair_of_location(), {"posterior": [], "prior": []}
    for seed in range(80):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, dtype=DOUBLE, generator=generator) + torch.randn(ROWS, dtype=DOUBLE, generator=generator)
        for kind, values in found.items():
            options = {"kind": kind, "num_samples": 200, "seed": seed, "fitted_to": x}
            values.append(float(predictive_check(pair, x, {"mean": torch.mean}, **options).p_values[0]))
    assert kstest(found["prior"], "uniform").pvalue > 1e-4
    assert kstest(found["posterior"], "uniform").pvalue < 1e-6
    assert np.std(found["posterior"]) < 0.12 < 12**-0.5 - 0.05


def test_ties_count_half_and_the_errors_are_binomial_and_never_zero():
    quantities = {"constant": lambda x: 3.0, "never": lambda x: (x.sum() == X.sum()).float(), "mean": torch.mean}
    found = predictive_check(pair_of_location(), None, quantities, num_samples=400)
    assert found.p_values[:2].tolist() == [0.5, 0.0]
    assert 0 < float(found.standard_errors[1]) < 3 / 400
    p = float(found.p_values[2])
    assert float(found.standard_errors[2]) == pytest.approx(binom.std(400, p) / 400, rel=0.01)


# -- what it says ----------------------------------------------------------------------------------------------------


def test_data_that_the_model_does_not_make_are_told():
    x = X.clone()
    x[3] = 9.0
    pair = Pair(location, exact_location, dtype=DOUBLE).initialize(x)
    found = predictive_check(pair, None, {"max": torch.max, "min": torch.min, "median": torch.median})
    assert found.extreme.tolist() == [True, False, False]
    assert "NOT LIKE those of the model in 1 of 3 quantities: max is too high (9; " in repr(found)
    assert "less than 0.1 % of them are higher" in repr(found)
    frame = found.to_dataframe()
    assert list(frame.index) == ["max", "min", "median"] and frame.loc["max", "observed"] == 9.0
    assert [bool(words) for words in frame["reading"]] == [True, False, False]
    np.testing.assert_allclose(frame["q50"], found.replicated.quantile(0.5, 0))
    lower = predictive_check(pair, None, {"-max": lambda x: -x.max()})
    assert "-max is too low (-9; " in repr(lower) and float(lower.p_values[0]) == 1.0


def test_that_p_values_are_conservative_is_said_where_they_are(exact_pair, x):
    fit, quantities = Fit(pair_of_location()), {"mean": torch.mean}
    seen = predictive_check(fit, None, quantities, num_samples=50)
    assert seen.seen is True and "Since the fit has seen these rows, p-values crowd around 1/2" in repr(seen)
    assert repr(seen).startswith("PredictiveCheck(posterior, 50 replicates of 12 rows): no difference found: the one p")
    again = predictive_check(fit, X, quantities, num_samples=50)
    assert again.seen is True

    new = predictive_check(fit, X + 0.1, quantities, num_samples=50, fitted_to=X)
    assert new.seen is False and new.conservative == "" and "crowd" not in repr(new)

    prior = predictive_check(fit, None, quantities, num_samples=50, kind="prior")
    assert prior.conservative == ""  # no parameters: nothing of it is fitted

    own = predictive_check(exact_pair, x, quantities, num_samples=50)
    assert "each row's latents were drawn given that very row" in repr(own)
    mixed = predictive_check(exact_pair, x + 1, quantities, num_samples=50, kind="mixed")
    assert mixed.conservative == ""
    loaded = Pair(location, AutoNormal(location), dtype=DOUBLE).initialize(X)
    loaded.template = loaded.template.take(slice(0, 2))
    assert "the fit may have seen these rows" in repr(predictive_check(loaded, X, quantities, num_samples=50))


def test_figures_of_ours_and_of_arviz(tmp_path):
    quantities = {"max": torch.max, "above": lambda x: (x > 0).sum(), "sd": torch.std}
    for kind in ("posterior", "prior"):
        found = predictive_check(pair_of_location(), None, quantities, kind=kind, num_samples=100)
        inner = found.plot().child_axes
        assert [ax.get_title().split()[0] for ax in inner] == list(found.names)
        for ax, observed in zip(inner, found.observed, strict=True):
            assert ax.lines[0].get_xdata()[0] == float(observed)
            assert sum(bar.get_height() for bar in ax.patches) == 100
        for number, figure in enumerate((found.plot_arviz(), found.plot_ppc(num_samples=5))):
            figure.savefig(tmp_path / f"{kind}{number}.png")
            assert (tmp_path / f"{kind}{number}.png").stat().st_size > 5000
        idata = found.to_inference_data()
        assert idata[f"{kind}_predictive"]["x"].shape == (1, 50, ROWS)
        np.testing.assert_array_equal(idata["observed_data"]["x"].values, X.numpy())
        numbers = found.to_inference_data(quantities=True)
        np.testing.assert_array_equal(numbers[f"{kind}_predictive"]["sd"].values[0], found.replicated[:, 2].numpy())


# -- data of all kinds -----------------------------------------------------------------------------------------------


def test_entries_that_were_not_observed_are_the_data_s_own():
    x = (torch.rand(20, 6) < 0.5).float()
    mask = torch.rand(20, 6) < 0.7
    pair = Pair(VAE(MLP(2, 6), latent_dim=2, likelihood="bernoulli"), AmortizedNormal(MLP(6, 4), latent_dim=2))
    rows = {"x": x, "mask": mask}
    pair.initialize(rows)
    quantities = {"holes": lambda x: x[~mask].sum(), "seen": lambda x: x[mask].sum()}
    found = predictive_check(pair, rows, quantities, num_samples=40)
    assert float(found.p_values[0]) == 0.5 and bool((found.replicated[:, 0] == found.observed[0]).all())
    assert float(found.replicated[:, 1].std()) > 0


def test_several_observed_sites_come_by_name_with_their_covariates():
    def model(a, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu + 100 * a, 1.0), obs=x)
            pyro.sample("y", dist.Normal(mu - 100, 1.0), obs=x)

    a = torch.arange(5.0, dtype=DOUBLE)
    pair = Pair(model, AutoNormal(model), dtype=DOUBLE)
    quantities = {"slope": lambda d: (d["x"][1:] - d["x"][:-1]).mean(), "y": lambda d: d["y"].mean()}
    pair.initialize((a, a))
    found = predictive_check(pair, (a, a), quantities, kind="prior", num_samples=60)
    assert abs(float(found.replicated[:, 0].mean()) - 100) < 1 and abs(float(found.replicated[:, 1].mean()) + 100) < 1
    assert found.observed.tolist() == [1.0, 2.0]


def test_quantities_are_asked_in_the_units_of_the_data():
    class Tenth:
        def forward(self, rows):
            return rows / 10

        def undo(self, rows):
            return rows * 10

    pair = pair_of_location()
    pair.units = Tenth()
    found = predictive_check(pair, 10 * X, {"max": torch.max}, num_samples=300, kind="prior", fitted_to=10 * X)
    assert float(found.observed[0]) == pytest.approx(10 * float(X.max()))
    assert 12 < float(found.replicated[:, 0].mean()) < 22  # the greatest of 12 is at 1.6


def test_few_numbers_at_once_make_as_many_replicates_of_the_same_law():
    found = predictive_check(pair_of_location(), None, {"mean": torch.mean}, num_samples=300, max_elements=100)
    law = dist.Normal(X.sum() / (1 + ROWS), (1 / (1 + ROWS) + 1 / ROWS) ** 0.5)
    assert found.replicated.shape == (300, 1) and len(set(found.replicated[:, 0].tolist())) == 300
    assert kstest(found.replicated[:, 0].numpy(), _cdf(law)).pvalue > 1e-4
    assert found.replicates["x"].shape == (50, ROWS)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_words():
    pair = pair_of_location()
    mean = {"mean": torch.mean}
    with pytest.raises(ValueError, match="kind must be 'posterior', 'mixed' or 'prior', got 'post'"):
        predictive_check(pair, None, mean, kind="post")
    with pytest.raises(ValueError, match="quantities are required, functions of one data set"):
        predictive_check(pair)
    with pytest.raises(ValueError, match="at least one replicated data set"):
        predictive_check(pair, None, mean, num_samples=0)
    with pytest.raises(ValueError, match=r"quantities\['all'\] gave of shape \(12,\) for the data"):
        predictive_check(pair, None, {"all": lambda x: x})
    with pytest.raises(ValueError, match=r"quantities\['words'\] gave 'high' for the data"):
        predictive_check(pair, None, {"words": lambda x: "high"})
    with pytest.raises(ValueError, match=r"must give a finite number, and quantities\['nan'\] gave nan for the data"):
        predictive_check(pair, None, {"nan": lambda x: x.sum() * torch.nan})
    pair.template = Rows()
    with pytest.raises(ValueError, match="predictive_check: the rows that the pair was fitted to are required"):
        predictive_check(pair, None, mean)


def test_a_flat_prior_has_no_prior_check():
    def model(x):
        mu = pyro.sample("mu", Flat(constraints.real))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    pair = Pair(model, AutoNormal(model), dtype=DOUBLE).initialize(X)
    assert len(predictive_check(pair, None, {"mean": torch.mean}, num_samples=9).replicated) == 9
    with pytest.raises(ValueError, match="predictive_check: draws from the prior are required, and the prior of 'mu'"):
        predictive_check(pair, None, {"mean": torch.mean}, kind="prior")
