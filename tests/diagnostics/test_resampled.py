"""``to_inference_data(resample="psis")``, and what ArviZ makes of draws with and without their weights."""

from __future__ import annotations

import math
import warnings

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import Pair, _arviz
from ppl_vae.diagnostics import to_inference_data

DOUBLE = torch.float64
X = 0.5 + torch.randn(45, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
PRECISION = len(X) + 0.01
MEAN, SD = float(X.sum() / PRECISION), PRECISION**-0.5
ONLY = ("posterior", "log_likelihood")


def model(x):
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=DOUBLE), 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def pair_of_width(width, shift=0.0):
    def guide(x):
        pyro.sample("m", dist.Normal(torch.tensor(MEAN + shift * SD, dtype=DOUBLE), width * SD))

    return Pair(model, guide, dtype=DOUBLE)


def exact_loo():
    """Sum of log p(x_n | the others): without x_n the posterior of m is N((sum x - x_n) / (precision - 1), ...)."""
    rest = PRECISION - 1
    return float(dist.Normal((X.sum() - X) / rest, math.sqrt(1 + 1 / rest)).log_prob(X).sum())


def loo(idata):
    """The sum and the greatest k-hat by ``az.loo``, which takes the draws for the posterior's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = arviz.loo(idata, pointwise=True)
    return float(found.elpd if hasattr(found, "elpd") else found.elpd_loo), float(found.pareto_k.max())


def test_resampled_draws_are_the_posterior_s():
    idata = to_inference_data(pair_of_width(0.8, 0.5), X, num_samples=4000, num_predictive=500, resample="psis")
    m = idata["posterior"]["m"].values
    assert m.shape == (1, 4000)
    effective = 2000  # of 16,000 weighted draws more than half are left, of which 4000 are taken
    assert abs(m.mean() - MEAN) < 4.5 * SD / effective**0.5
    assert abs(m.std() / SD - 1) < 4.5 / (2 * effective) ** 0.5
    predicted = idata["posterior_predictive"]["x"].values
    assert abs(predicted.std() - math.sqrt(1 + SD**2)) < 0.05


def test_the_densities_are_of_the_resampled_draws():
    idata = to_inference_data(
        pair_of_width(0.8), X, num_samples=50, num_predictive=2, resample="psis", max_elements=900
    )
    m = torch.tensor(idata["posterior"]["m"].values[0])
    wanted = dist.Normal(m.unsqueeze(1), 1.0).log_prob(X)
    np.testing.assert_allclose(idata["log_likelihood"]["x"].values[0], wanted, rtol=1e-10)


def test_they_carry_no_weights_and_say_so(tmp_path):
    idata = to_inference_data(pair_of_width(1.2), X, num_samples=50, num_predictive=2, resample="psis")
    assert "sample_stats" not in _arviz.group_names(idata)
    plain = to_inference_data(pair_of_width(1.2), X, num_samples=50, num_predictive=2)
    assert {"log_p", "log_q"} <= set(plain["sample_stats"].data_vars) and "resampled" not in plain["posterior"].attrs
    _arviz.to_netcdf(idata, tmp_path / "posterior.nc")
    for group in ("posterior", "log_likelihood", "posterior_predictive"):
        assert "do not weigh" in _arviz.from_netcdf(tmp_path / "posterior.nc")[group].attrs["resampled"]
        assert "do not weigh" in idata[group].attrs["resampled"]


def test_each_datum_is_resampled_by_itself(exact_pair, local_pair, x):
    idata = to_inference_data(local_pair, x, num_samples=60, num_predictive=7, resample="psis")
    assert idata["posterior"]["z"].shape == (1, 60, 40, 4)
    assert idata["log_likelihood"]["x"].shape == (1, 60, 40)
    exact = to_inference_data(exact_pair, x, num_samples=60, num_predictive=7, resample="psis")
    z, mean = exact["posterior"]["z"].values[0], exact_pair.draw(x, 2000).values["z"].mean(0).numpy()
    assert np.abs(z.mean(0) - mean).max() < 5 * z.std() / 60**0.5


def test_mistakes_are_named(x):
    pair = pair_of_width(1.0)
    with pytest.raises(ValueError, match="resample must be 'psis' or None"):
        to_inference_data(pair, X, resample="is")
    with pytest.raises(ValueError, match="correct"):
        to_inference_data(pair, X, resample="psis", groups=["sample_stats"])

    def regression(x, y=None):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(m * x, 1.0), obs=y)

    def guide(x, y=None):
        pyro.sample("m", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="weigh nothing"):
        to_inference_data(Pair(regression, guide).initialize({"x": X, "y": X}), {"x": X}, resample="psis")


def test_weights_that_do_not_serve_are_told():
    def of_width(width):
        return Pair(
            lambda: pyro.sample("m", dist.Normal(torch.zeros(20, dtype=DOUBLE), 1.0).to_event(1)),
            lambda: pyro.sample("m", dist.Normal(torch.zeros(20, dtype=DOUBLE), width).to_event(1)),
            dtype=DOUBLE,
        )

    with pytest.warns(UserWarning, match="k-hat is not known to be within"):
        to_inference_data(of_width(0.3), num_samples=50, groups=["posterior"], resample="psis")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_inference_data(of_width(0.95), num_samples=50, groups=["posterior"], resample="psis")


def test_plain_loo_is_optimistic_on_the_guide_s_draws_and_right_on_resampled_ones():
    plain = to_inference_data(pair_of_width(0.7), X, num_samples=4000, groups=ONLY)
    again = to_inference_data(pair_of_width(0.7), X, num_samples=4000, groups=ONLY, resample="psis")
    (optimistic, khat), (right, _) = loo(plain), loo(again)
    assert optimistic > exact_loo() + 0.4 and khat < 0.3  # and nothing shows it
    assert abs(right - exact_loo()) < 0.08
    own, _ = loo(to_inference_data(pair_of_width(1.0), X, num_samples=4000, groups=ONLY))
    assert abs(own - exact_loo()) < 0.08  # as the posterior's own draws make it


@pytest.mark.skipif(not _arviz.is_one(arviz), reason="loo_approximate_posterior came with ArviZ 1.0")
def test_loo_of_an_approximate_posterior_takes_the_weights():
    def approximate(width):
        idata = to_inference_data(
            pair_of_width(width), X, num_samples=4000, groups=("posterior", "log_likelihood", "sample_stats")
        )
        stats = idata["sample_stats"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = arviz.loo_approximate_posterior(idata, stats["log_p"], stats["log_q"], pointwise=True)
        return loo(idata)[0], float(found.elpd), float(found.pareto_k.max()), found.good_k

    truth = exact_loo()
    assert approximate(1.0)[1] == pytest.approx(truth, abs=0.08)
    optimistic, weighed, khat, good = approximate(0.7)
    assert optimistic > truth + 0.4 and abs(weighed - truth) < 0.1 and khat < good
    optimistic, weighed, khat, good = approximate(0.4)  # nearer, not there, and k-hat says so
    assert optimistic > truth + 0.7 and 0.2 < weighed - truth < 0.6 and khat > good
