"""Evidence from both sides: what is said of simulated data, and of others."""

import pyro
import pyro.distributions as dist
import pytest
import schools
import torch
from linear_gaussian import LinearGaussian, z_score
from pyro.infer.autoguide import AutoNormal

from ppl_vae.evidence import Annealed, bidirectional, sandwich
from ppl_vae.pair import Pair

FEW = Annealed(40, 8)


def test_both_sides_of_simulated_data_are_bounds():
    known = LinearGaussian()
    found = bidirectional(known.pair(), known.data(300), FEW)
    assert (found.lower.bound, found.upper.bound, found.simulated) == ("lower", "upper", None)
    assert found.gap.shape == (300,)
    assert z_score(found.gap) > 0
    assert float(found.gap.median()) < 0.2
    assert repr(found).startswith("log p(x) between -")
    assert "both bounds" in repr(found)
    frame = found.to_dataframe()
    assert list(frame.columns) == ["lower", "lower_error", "upper", "upper_error", "gap"]
    assert len(frame) == 300


def test_a_guide_that_is_off_moves_neither_side():
    known = LinearGaussian()
    x = known.data(200)
    found = sandwich(known.pair(shift=0.5, widen=0.5), x, FEW)
    truth = known.log_marginal(x)
    assert found.upper.bound == "estimate"
    assert -0.1 < float((found.lower.value - truth).mean()) < 0.01
    assert abs(float((found.upper.value - truth).mean())) < 0.1
    assert "no bound" in repr(found)
    assert found.simulated is not None
    assert "Simulated data: log p(x) between" in repr(found)
    assert sandwich(known.pair(), x, FEW, simulated=False).simulated is None


def regression(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def of_rows(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x + 4 * y) / 5, 0.2**0.5))


def test_covariates_stay_and_only_what_is_observed_is_simulated():
    x = torch.linspace(-20, 20, 200, dtype=torch.float64)
    pair = Pair(regression, of_rows, dtype=torch.float64)
    found = bidirectional(pair, (x, x), FEW)
    expected = dist.Normal(x, 1.25**0.5).entropy()  # log p(y | x) of a y that is a draw of it
    assert abs(z_score(found.lower.value + expected)) < 4.5
    assert float(found.gap.abs().max()) < 1.5


def squared(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x**3)


def half(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x**3, 0.2**0.5))


def test_what_the_model_makes_of_its_argument_must_be_said_backwards():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair = Pair(squared, half, dtype=torch.float64)
    with pytest.raises(ValueError, match="to_data"):
        bidirectional(pair, x, FEW)
    found = bidirectional(pair, x, FEW, to_data=lambda sites, rows: sites["x"].sign() * sites["x"].abs() ** (1 / 3))
    assert abs(z_score(found.lower.value + dist.Normal(0.0, 1.25**0.5).entropy())) < 4.5


def test_latents_that_all_data_share_are_one_datum():
    pair = Pair(schools.non_centred, AutoNormal(schools.non_centred), dtype=torch.float64)
    found = sandwich(pair, schools.DATA, Annealed(100, 32))
    assert found.gap.shape == ()
    assert found.lower.reliable
    assert abs(float(found.lower.value) - schools.LOG_Z) < 4.5 * float(found.lower.standard_error)
    assert found.simulated is not None
    assert abs(float(found.simulated.gap)) < 1.0


def factored(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.factor("x", -((x - z) ** 2))


def test_nobody_can_simulate_a_factor():
    pair = Pair(factored, half, dtype=torch.float64)
    x = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="factor"):
        bidirectional(pair, x, FEW)
    assert sandwich(pair, x, FEW, simulated=False).gap.shape == (3,)
