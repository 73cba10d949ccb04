"""Error bars of rows that are called reliable: linear-Gaussian models, guides of every quality, every estimator."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evidence import Annealed, ImportanceWeighted, Laplace, Sequential, log_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.pooling import Pool, pooled_khat, tail_noise
from ppl_vae.evidence.weights import join
from ppl_vae.pair import Pair

NOISE = 0.6
GUIDES = {
    "good": lambda covariance: 1.05 * torch.linalg.cholesky(covariance),
    "mean field": lambda covariance: torch.linalg.inv(covariance).diagonal().rsqrt().diag(),
    "too narrow": lambda covariance: 0.7 * torch.linalg.cholesky(covariance),
}
PROBLEMS = {
    "good-5": (5, "good", None),
    "mean-field-2": (2, "mean field", None),
    "mean-field-10": (10, "mean field", None),
    "narrow-10": (10, "too narrow", None),
    "correlated-5": (5, "mean field", 0.5),
    "correlated-10": (10, "mean field", 0.5),
    "correlated-20": (20, "mean field", 0.5),
    "strongly-2": (2, "mean field", 0.9),
    "strongly-10": (10, "mean field", 0.9),
}


class Problem:
    """x = z W + noise, with a posterior whose correlations are all rho where it is given; a guide, shifted or not."""

    def __init__(self, name: str, rows: int) -> None:
        size, guide, rho = PROBLEMS[name]
        generator = torch.Generator().manual_seed(4)
        like = {"generator": generator, "dtype": torch.float64}
        eye = torch.eye(size, dtype=torch.float64)
        if rho is None:
            self.weight = torch.randn(size, 2 * size, **like) / math.sqrt(size)
        else:
            covariance = min(0.1, 0.9 / (1 + rho * (size - 1))) * (rho + (1 - rho) * eye)
            self.weight = NOISE * torch.linalg.cholesky(torch.linalg.inv(covariance) - eye)
        width = self.weight.shape[1]
        self.x = torch.randn(rows, size, **like) @ self.weight + NOISE * torch.randn(rows, width, **like)
        covariance = torch.linalg.inv(eye + self.weight @ self.weight.T / NOISE**2)
        self.factor = GUIDES[guide](covariance)
        self.loc = self.x @ self.weight.T / NOISE**2 @ covariance
        if guide != "mean field":
            self.loc = self.loc + 0.2 * covariance.diagonal().sqrt()
        marginal = self.weight.T @ self.weight + NOISE**2 * torch.eye(width, dtype=torch.float64)
        self.truth = dist.MultivariateNormal(torch.zeros(width, dtype=torch.float64), marginal).log_prob(self.x)
        self.size = size

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, NOISE).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.loc, scale_tril=self.factor))

    def evidence(self, estimator) -> Evidence:
        return log_evidence(Pair(self.model, self.guide, dtype=torch.float64), self.x, estimator)


def covered(found: Evidence, truth: torch.Tensor) -> tuple[float, int]:
    """The share of 95 % intervals of reliable rows that hold log p(x), and how many rows these are."""
    hit = (found.value - truth).abs() <= 1.96 * found.standard_error + 1e-9
    return float(hit[found.reliable].double().mean()), int(found.reliable.sum())


def holds(found: Evidence, truth: torch.Tensor, nominal: float = 0.9) -> bool:
    """At least 90 %, by a binomial test at 4.5 standard errors; or hardly any row is called reliable."""
    share, number = covered(found, truth)
    return number < 0.01 * len(truth) or share >= nominal - 4.5 * math.sqrt(nominal * (1 - nominal) / number)


@pytest.mark.parametrize("name", ["mean-field-10", "narrow-10", "correlated-10", "strongly-2"])
def test_reliable_error_bars_hold(name):
    problem = Problem(name, 300)
    assert holds(problem.evidence(ImportanceWeighted(500)), problem.truth)


def test_those_that_are_called_reliable_are_many_where_they_can_be():
    numbers = {}
    for name in ("good-5", "mean-field-10", "correlated-10"):
        problem = Problem(name, 300)
        numbers[name] = covered(problem.evidence(ImportanceWeighted(1000)), problem.truth)[1]
    assert numbers == {"good-5": 300, "mean-field-10": 300, "correlated-10": 0}


def test_a_small_khat_of_its_own_selects_the_rows_that_have_failed():
    problem = Problem("correlated-10", 300)
    found = problem.evidence(ImportanceWeighted(1000))
    lucky = found.khat < 0.7
    assert int(lucky.sum()) > 30
    hit = (found.value - problem.truth).abs() <= 1.96 * found.standard_error
    assert float(hit[lucky].double().mean()) < 0.5 < float(hit[~lucky].double().mean())
    assert not bool(found.reliable.any())


def test_a_large_effective_number_of_draws_selects_them_too():
    problem = Problem("correlated-5", 600)
    found = problem.evidence(ImportanceWeighted(250))
    hit = ((found.value - problem.truth).abs() <= 1.96 * found.standard_error).double()
    large = found.ess >= 100
    assert 50 < int(large.sum()) < 500
    assert float(hit[large].mean()) < 0.8 < 0.95 < float(hit[~large].mean())


def test_rows_of_two_kinds_are_told_apart():
    good, bad = Problem("mean-field-2", 300), Problem("correlated-20", 300)
    parts = [problem.evidence(ImportanceWeighted(1000)) for problem in (good, bad)]
    both = replace(join(parts), is_pooled=False).pooled()
    assert float(both.reliable[:300].double().mean()) > 0.99
    assert float(both.reliable[300:].double().mean()) < 0.03
    assert both.pooled() is both  # once is enough
    alone = good.evidence(ImportanceWeighted(1000)).standard_error
    torch.testing.assert_close(both.standard_error[:300].mean(), alone.mean(), rtol=0.3, atol=0)


def test_khats_without_noise():
    generator = torch.Generator().manual_seed(0)
    truth = torch.cat([torch.full((500,), 0.2), torch.full((500,), 0.9)]).double()
    noise = tail_noise(truth, 1000)
    found = pooled_khat(truth + noise * torch.randn(1000, generator=generator, dtype=torch.float64), 1000)
    assert float((found - truth).abs().mean()) < 0.05
    few = torch.tensor([0.1, 0.9, math.nan])
    assert torch.equal(pooled_khat(few, 1000)[:2], few[:2])  # three rows say nothing of one another
    odd = torch.cat([torch.full((50,), 0.2), torch.tensor([2.5, math.inf, math.nan])]).double()
    kept = pooled_khat(odd, 1000)
    assert float(kept[50]) > 2.0
    assert torch.equal(kept[51:].isinf(), torch.tensor([True, False]))
    assert Pool.of(odd, None) is None


def test_errors_of_light_tails_are_their_own():
    khat = torch.full((100,), -0.2, dtype=torch.float64)
    error = torch.linspace(0.01, 0.1, 100, dtype=torch.float64)
    pool = Pool.of(khat, 1000)
    assert torch.equal(pool.error(error), error)
    heavy = Pool.of(khat + 0.8, 1000).error(torch.cat([error[:99], torch.tensor([math.nan]).double()]))
    assert bool((heavy[:99] >= error[:99]).all())
    assert float(heavy[0]) == pytest.approx(math.sqrt((0.01**2 + float(error[:99].square().mean())) / 2), rel=0.01)
    assert bool(heavy[99].isnan())


ESTIMATORS = {
    "default": ImportanceWeighted(1000),
    "laplace": Laplace(400),
    "annealed": Annealed(300, 16),
    "annealed from the guide": Annealed(100, 16, start="guide"),
    "sequential": Sequential(40, 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("label", ESTIMATORS)
def test_every_estimator_holds_where_it_is_called_reliable(name, label):
    problem = Problem(name, 1000)
    found = problem.evidence(ESTIMATORS[label])
    assert holds(found, problem.truth), covered(found, problem.truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["good-5", "mean-field-10", "narrow-10"])
def test_the_mean_over_200_data_sets_holds(name):
    rows = 30
    problem = Problem(name, 200 * rows)
    found = problem.evidence(ImportanceWeighted(1000))
    held = []
    for begin in range(0, 200 * rows, rows):
        place = slice(begin, begin + rows)
        fields = {key: getattr(found, key)[place] for key in ("value", "standard_error", "ess", "khat")}
        part = Evidence(**fields, bound="lower", estimator="", fewer=found.fewer[:, place])
        low, high = part.mean().interval()
        held.append(low <= float(problem.truth[place].mean()) <= high)
    assert sum(held) / 200 >= 0.9 - 4.5 * math.sqrt(0.9 * 0.1 / 200)
