"""Laws of every estimator of log p(x), on models where log p(x) is known; each with its planted bug."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian, z_score

from ppl_vae.evidence import Estimator, ImportanceWeighted, NaiveMonteCarlo, log_evidence
from ppl_vae.evidence.weights import summarize
from ppl_vae.pair import Pair

ESTIMATORS = {"naive": NaiveMonteCarlo, "importance": ImportanceWeighted}
GUIDE = {
    "shift": 0.2,
    "widen": 1.3,
}  # apart from the posterior, wider in the tails: weights of finite variance


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian()


class ScaledInside:
    """The planted bug: a factor N/B goes into the logsumexp (as in Pyro's RenyiELBO with subsample_size)."""

    def __init__(self, num_samples: int, factor: float = 10.0) -> None:
        self.num_samples, self.factor = num_samples, factor

    def estimate(self, pair, rows, seed, *, max_elements):
        drawn = pair.draw(rows, self.num_samples, seed=seed).log_weight
        found = summarize(self.factor * drawn, "scaled inside")
        return type(found)(
            found.value / self.factor, found.standard_error / self.factor, found.ess, found.khat, "lower", ""
        )


class WithoutLogQ:
    """The planted bug: the draws come from the guide, but its density is forgotten."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def estimate(self, pair, rows, seed, *, max_elements):
        return summarize(pair.draw(rows, self.num_samples, seed=seed).log_p.total, "without log q")


# -- laws: each returns how many standard errors it is broken by -------------------------------------------


def broken_unbiasedness(oracle, estimator) -> float:
    """E[exp(estimate)] = p(x): replicates are rows, each with its own known p(x)."""
    x = oracle.data(2000)
    found = log_evidence(oracle.pair(**GUIDE), x, estimator)
    return abs(z_score((found.value - oracle.log_marginal(x)).exp() - 1.0))


def broken_bound(oracle, estimator) -> float:
    """E[estimate] <= log p(x)."""
    x = oracle.data(2000)
    return z_score(log_evidence(oracle.pair(**GUIDE), x, estimator).value - oracle.log_marginal(x))


def broken_coverage(oracle, estimator) -> float:
    """95 % of the intervals value ± 1.96 SE hold log p(x)."""
    x = oracle.data(1000, seed=1)
    found = log_evidence(oracle.pair(**GUIDE), x, estimator)
    inside = (found.value - oracle.log_marginal(x)).abs() < 1.96 * found.standard_error
    return abs(float(inside.double().mean()) - 0.95) / math.sqrt(0.95 * 0.05 / len(x))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_the_exponential_is_unbiased(oracle, name, num_samples):
    assert broken_unbiasedness(oracle, ESTIMATORS[name](num_samples)) < 4.5


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_the_value_is_a_lower_bound(oracle, name, num_samples):
    assert broken_bound(oracle, ESTIMATORS[name](num_samples)) < 4.5


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_error_bars_cover(oracle, name):
    assert broken_coverage(oracle, ESTIMATORS[name](2000 if name == "naive" else 400)) < 4.5


def test_a_factor_inside_the_logsumexp_breaks_the_bound(oracle):
    assert broken_bound(oracle, ScaledInside(50)) > 4.5
    assert broken_unbiasedness(oracle, ScaledInside(50)) > 4.5
    assert broken_coverage(oracle, ScaledInside(400)) > 4.5


def test_a_forgotten_log_q_breaks_unbiasedness_and_coverage(oracle):
    assert broken_unbiasedness(oracle, WithoutLogQ(50)) > 4.5
    assert broken_coverage(oracle, WithoutLogQ(400)) > 4.5


def test_the_bound_rises_with_the_draws(oracle):
    x, pair = oracle.data(2000), oracle.pair(**GUIDE)
    values = [log_evidence(pair, x, ImportanceWeighted(k), seed=k).value for k in (1, 4, 16, 64)]
    for lower, higher in pairwise(values):
        assert z_score(higher - lower) > -2
    assert z_score(values[-1] - values[0]) > 4.5


def test_one_draw_is_the_elbo(oracle):
    x = oracle.data(2000)
    found = log_evidence(oracle.pair(**GUIDE), x, ImportanceWeighted(1))
    assert abs(z_score(found.value - oracle.pieces(x, **GUIDE)["elbo"])) < 4.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_posterior_as_guide_is_perfect(dtype):
    oracle = LinearGaussian(dtype)
    x = oracle.data(20)
    found = log_evidence(oracle.pair(), x, ImportanceWeighted(200))
    assert found.standard_error.tolist() == [0.0] * 20
    assert found.ess.tolist() == [200.0] * 20
    assert found.khat.tolist() == [0.0] * 20
    assert torch.allclose(found.value, oracle.log_marginal(x).double(), atol=1e-10 if dtype == torch.float64 else 1e-4)


def test_khat_warns_of_a_guide_that_is_too_narrow(oracle):
    x = oracle.data(50)
    good, bad = (log_evidence(oracle.pair(widen=w), x, ImportanceWeighted(2000)) for w in (1.3, 0.3))
    assert bool(good.reliable.all())
    assert float(bad.khat.median()) > 0.7
    truth = oracle.log_marginal(x)
    z = ((bad.value - truth) / bad.standard_error).abs()
    assert float((z < 1.96).double().mean()) < 0.85  # as its docstring says: then the error bar is too short


# -- chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("max_elements", [37, 900, 20_000, 1 << 23])
def test_no_chunking_changes_the_distribution(oracle, name, max_elements):
    x = oracle.data(60)
    found = log_evidence(oracle.pair(**GUIDE), x, ESTIMATORS[name](60), max_elements=max_elements)
    ratio = (found.value - oracle.log_marginal(x)).exp() - 1.0
    assert abs(z_score(ratio)) < 4.5
    assert found.value.shape == (60,)
    assert bool((found.ess <= 60 + 1e-9).all())


@pytest.mark.parametrize("max_elements", [10, 40, 100, 5000])
def test_no_run_is_larger_than_allowed(oracle, monkeypatch, max_elements):
    x, pair, sizes = oracle.data(10), oracle.pair(**GUIDE), []
    pair.initialize(x)
    many = pair.runner.many
    monkeypatch.setattr(pair.runner, "many", lambda batch, k: sizes.append(batch.size * k) or many(batch, k))
    log_evidence(pair, x, ImportanceWeighted(25), max_elements=max_elements)
    assert max(sizes) * (2 + 3) <= max_elements
    assert sum(sizes) >= 10 * 25


def test_the_same_seed_gives_the_same_numbers(oracle):
    x, pair = oracle.data(10), oracle.pair(**GUIDE)
    one, again, other = (log_evidence(pair, x, ImportanceWeighted(50), seed=s).value for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_rows_of_a_guide_by_index_keep_their_numbers(oracle):
    x = oracle.data(9)
    exact = oracle.posterior(x)

    def guide(x, index):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(exact.loc[index], exact.covariance_matrix[index]))

    def model(x, index):
        oracle.model(x)

    exact = dist.MultivariateNormal(exact.loc, exact.covariance_matrix.expand(9, -1, -1))
    rows = Pair(model, guide, dtype=torch.float64).rows(x).take(slice(0, 9))
    found = log_evidence(Pair(model, guide, dtype=torch.float64), rows, ImportanceWeighted(40), max_elements=300)
    assert found.standard_error.tolist() == [0.0] * 9


def test_a_plate_of_fixed_size_keeps_its_rows_together(oracle):
    x = oracle.data(12)

    def model(x):
        with pyro.plate("data", 12):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ oracle.W.T + oracle.mu, 0.8).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 12):
            pyro.sample("z", oracle.posterior(x))

    found = log_evidence(Pair(model, guide, dtype=torch.float64), x, ImportanceWeighted(40), max_elements=50)
    assert torch.allclose(found.value, oracle.log_marginal(x))


# -- other kinds of pairs ----------------------------------------------------------------------------------


def global_pair() -> tuple[Pair, torch.Tensor, float]:
    """One mean for all rows: log p(x_1..x_N) is one number, and the posterior is normal."""
    x = torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    precision = 1.0 + len(x)

    def model(x):
        m = pyro.sample("m", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(x.sum() / precision, 1.2 * precision**-0.5))

    covariance = torch.eye(15, dtype=torch.float64) + 1.0
    truth = dist.MultivariateNormal(torch.zeros(15, dtype=torch.float64), covariance).log_prob(x)
    return Pair(model, guide, dtype=torch.float64), x, float(truth)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("max_elements", [100, 1 << 23])
def test_latents_of_all_data_give_one_number(name, max_elements):
    pair, x, truth = global_pair()
    found = log_evidence(pair, x, ESTIMATORS[name](2000), max_elements=max_elements)
    assert found.value.shape == found.khat.shape == found.ess.shape == ()
    assert abs(float(found.value) - truth) < 4.5 * float(found.standard_error)


def test_a_pair_without_data():
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.factor("f", -z.square())

    def guide():
        pyro.sample("z", dist.Normal(torch.zeros(()), 0.7))

    for estimator in (NaiveMonteCarlo(3000), ImportanceWeighted(3000)):
        found = log_evidence(Pair(model, guide, dtype=torch.float64), None, estimator)
        assert abs(float(found.value) + 0.5 * math.log(3)) < 4.5 * float(found.standard_error)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_pair_without_latents_is_exact(name):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)

    x = torch.arange(5.0, dtype=torch.float64)
    found = log_evidence(Pair(model, lambda x: None, dtype=torch.float64), x, ESTIMATORS[name](40))
    assert torch.allclose(found.value, dist.Normal(0.0, 1.0).log_prob(x))
    assert found.standard_error.tolist() == [0.0] * 5
    assert found.bound == ("exact" if name == "importance" else "lower")
    assert found.ess.tolist() == [math.inf if name == "importance" else 40.0] * 5  # it makes one run, and no draws


def test_discrete_latents():
    means = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    x = torch.linspace(-2, 3, 7, dtype=torch.float64)
    joint = dist.Normal(means, 1.0).log_prob(x[:, None]) - math.log(3)

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(3, dtype=x.dtype)))
            pyro.sample("x", dist.Normal(means[c], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=joint))

    pair = Pair(model, guide, dtype=torch.float64)
    exact = log_evidence(pair, x, ImportanceWeighted(100), max_elements=1 << 20)
    assert torch.allclose(exact.value, joint.logsumexp(-1))
    assert exact.khat.tolist() == [0.0] * 7
    naive = log_evidence(pair, x, NaiveMonteCarlo(4000))
    assert bool(((naive.value - joint.logsumexp(-1)).abs() < 4.5 * naive.standard_error).all())


# -- the door ----------------------------------------------------------------------------------------------


def test_the_default_is_importance_weighting(oracle):
    found = log_evidence(oracle.pair(**GUIDE), oracle.data(3))
    assert found.estimator == "ImportanceWeighted(1000)"
    assert found.bound == "lower"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_keeps_the_protocol(name):
    assert isinstance(ESTIMATORS[name](3), Estimator)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_draws_are_refused(oracle, name):
    with pytest.raises(ValueError, match="at least one draw is required, got num_samples=0"):
        log_evidence(oracle.pair(), oracle.data(3), ESTIMATORS[name](0))


def test_no_room_is_refused(oracle):
    with pytest.raises(ValueError, match="max_elements must be positive, got 0"):
        log_evidence(oracle.pair(), oracle.data(3), max_elements=0)


def test_naive_does_not_depend_on_the_guide(oracle):
    x = oracle.data(5)
    one, other = (log_evidence(oracle.pair(widen=w), x, NaiveMonteCarlo(50)).value for w in (0.1, 3.0))
    assert torch.equal(one, other)
