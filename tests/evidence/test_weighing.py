"""Weighted draws of pairs: against quadrature, closed forms, and guides at a known distance from the posterior."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal
from schools import DATA, EFFECT, ERROR
from schools import non_centred as eight_schools

from ppl_vae import DeterministicVI, Pair
from ppl_vae.evidence import weighted_draws
from ppl_vae.result import Fit
from tests.evidence.linear_gaussian import LinearGaussian

DOUBLE = torch.float64
SIGMA = 4.5


def tau_by_quadrature():
    """Mean and sd of tau, and its 5 % quantile; given tau, y is normal."""
    log_tau = torch.linspace(-14, 8, 20_001, dtype=DOUBLE)
    tau = log_tau.exp()
    covariance = 25.0 + torch.diag_embed(ERROR.square() + tau.square().unsqueeze(1))
    log_y = dist.MultivariateNormal(torch.zeros(8, dtype=DOUBLE), covariance).log_prob(EFFECT)
    p = (log_y + dist.HalfCauchy(torch.tensor(5.0, dtype=DOUBLE)).log_prob(tau) + log_tau).softmax(0)
    mean = (p * tau).sum()
    return {"mean": mean, "sd": (p * (tau - mean).square()).sum().sqrt(), "q5": tau[(p.cumsum(0) < 0.05).sum()]}


def test_eight_schools_where_the_normal_guide_is_too_narrow():
    fit = DeterministicVI(eight_schools, AutoMultivariateNormal(eight_schools)).fit(DATA)
    truth, draws = tau_by_quadrature(), fit.weighted_draws(num_samples=20_000, seed=2)
    assert not draws.warning, draws
    own = fit.draw(fit.rows_of_fit(), 20_000, seed=1).values["tau"].double()
    plain = {"mean": own.mean(), "sd": own.std(), "q5": own.quantile(0.05)}
    found = {"mean": draws.mean()["tau"], "sd": draws.sd()["tau"], "q5": draws.quantile(0.05)["tau"]}
    # With k-hat at 0.5 the errors told are short: over 20 seeds by 1.1 (mean), 1.8 (sd) and 2.1 (quantile).
    for name, estimate in found.items():
        off = float((estimate.value - truth[name]).abs())
        assert off <= SIGMA * {"mean": 1.1, "sd": 1.8, "q5": 2.1}[name] * float(estimate.standard_error)
        assert float((plain[name] - truth[name]).abs()) > max(3 * off, 4 * float(estimate.standard_error)), name
    assert float(plain["sd"] / truth["sd"]) < 0.85 and float(found["sd"].value / truth["sd"]) > 0.9


def conjugate(x):
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=DOUBLE), 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


X = 0.5 + torch.randn(45, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
PRECISION = len(X) + 0.01
MEAN, SD = float(X.sum() / PRECISION), PRECISION**-0.5


def shifted(shift, widen):
    def guide(x):
        pyro.sample("m", dist.Normal(torch.tensor(MEAN + shift * SD, dtype=DOUBLE), widen * SD))

    return Pair(conjugate, guide, dtype=DOUBLE)


def test_a_mean_that_is_off_by_more_than_an_sd_comes_within_a_few_hundredths():
    draws = weighted_draws(shifted(1.2, 1.3), X, seed=0)
    mean, sd = draws.mean()["m"], draws.sd()["m"]
    assert not draws.warning
    assert abs(mean.value - MEAN) <= SIGMA * mean.standard_error and mean.standard_error < 0.04 * SD
    assert abs(sd.value - SD) <= SIGMA * sd.standard_error and sd.standard_error < 0.04 * SD
    assert abs(mean.value - MEAN) < 0.06 * SD


def test_errors_of_the_mixture_cover():
    """Parts of fixed numbers of draws scatter less, so the errors are a little long at the most."""
    scores = []
    for seed in range(60):
        draws = weighted_draws(shifted(0.3, 0.8), X, 1000, seed=seed)
        mean, sd = draws.mean()["m"], draws.sd()["m"]
        scores.append(((mean.value - MEAN) / mean.standard_error, (sd.value - SD) / sd.standard_error))
    for kind in zip(*scores, strict=True):
        assert 0.65 < float(torch.stack(kind).square().mean().sqrt()) < 1 + SIGMA / math.sqrt(120)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_elements", [400, 1 << 23])
def test_a_guide_that_is_the_posterior_has_equal_weights(dtype, max_elements):
    case = LinearGaussian(dtype)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    draws = weighted_draws(case.pair(), x, 200, max_elements=max_elements)
    torch.testing.assert_close(draws.weights, torch.full((200, 7), 1 / 200, dtype=DOUBLE), rtol=1e-4, atol=0)
    assert draws.khat.tolist() == [0.0] * 7 and draws.ess.tolist() == pytest.approx([200.0] * 7)
    assert bool(draws.believable.all()) and draws.warning == ""
    own = case.pair().draw(x, 50_000).values["z"].double()  # all of them are of the guide, none is wider
    assert abs(float(draws.values["z"].double().std(0).mean() / own.std(0).mean()) - 1) < 0.1


def test_a_guide_that_is_not_has_others():
    draws = weighted_draws(LinearGaussian().pair(widen=1.001), torch.zeros(2, 3, dtype=DOUBLE), 200)
    assert float(draws.weights.std()) > 1e-4


@pytest.mark.parametrize("max_elements", [60_000, 1 << 23])
def test_each_datum_has_its_own_weights(max_elements):
    case = LinearGaussian()
    x = 2 * torch.randn(10, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    draws = weighted_draws(case.pair(shift=0.3, widen=0.8), x, 3000, max_elements=max_elements)
    assert draws.values["z"].shape == (3000, 10, 2) and draws.log_weight.shape == (3000, 10)
    exact = case.posterior(x)
    for found, truth in ((draws.mean()["z"], exact.mean), (draws.sd()["z"], exact.stddev)):
        assert float(((found.value - truth) / found.standard_error).abs().max()) < 4.8
        assert float(found.standard_error.max()) < 0.05
    table = draws.summary()
    assert list(table.index[:3]) == ["z[0, 0]", "z[0, 1]", "z[1, 0]"] and len(table) == 20
    assert table["khat"].tolist() == draws.khat.repeat_interleave(2).tolist()


def test_k_hat_is_of_other_draws():
    draws = weighted_draws(shifted(0.0, 0.8), X, 500)
    assert draws.others.shape == draws.log_weight.shape and not torch.equal(draws.others, draws.log_weight)
    assert float(draws.khat) != float(type(draws)(draws.values, draws.log_weight).khat)


def test_a_seed_is_a_set_of_draws_and_the_fit_passes_it_on():
    pair = shifted(0.1, 1.0)
    first, same, other = (weighted_draws(pair, X, 50, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.values["m"], same.values["m"]) and torch.equal(first.others, same.others)
    assert not torch.equal(first.values["m"], other.values["m"])
    fitted = Fit(pair.initialize(X), rows=pair.rows(X)).weighted_draws(num_samples=50, seed=3)
    assert torch.equal(fitted.log_weight, first.log_weight)


def two_codes(x):
    c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(c.double(), 1.0), obs=x)


def test_draws_that_are_all_one_code_prove_nothing():
    def gave_up(x):
        pyro.sample("c", dist.Categorical(torch.tensor([1 - 1e-9, 1e-9])))

    draws = weighted_draws(Pair(two_codes, gave_up), X, 100)
    assert math.isnan(float(draws.khat)) and float(draws.ess) == 1.0 and draws.warning


def test_a_point_mass_is_refused():
    with pytest.raises(ValueError, match="weighted_draws"):
        weighted_draws(Pair(conjugate, AutoDelta(conjugate)), X, 100)
