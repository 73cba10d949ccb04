"""Where the family holds the posterior, or its nearest member is known, a fit ends there to rounding."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import positive
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from ppl_vae import DeterministicVI
from ppl_vae.result import Fit

SIGMA, UNITS = 0.7, torch.tensor([1e-3, 1.0, 30.0, 1e3, 1e6], dtype=torch.float64)


class Regression:
    """Known noise, columns from 1e-3 to 1e6 of which two are correlated by 0.999: everything in closed form."""

    def __init__(self, n: int = 60) -> None:
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(n, 5, dtype=torch.float64, generator=generator)
        z[:, 4] = 0.999 * z[:, 3] + math.sqrt(1 - 0.999**2) * z[:, 4]
        self.x = z * UNITS + 2.0 * UNITS
        noise = SIGMA * torch.randn(n, dtype=torch.float64, generator=generator)
        self.y = z @ torch.tensor([1.0, -2.0, 0.5, 3.0, -3.0]).double() + 5.0 + noise
        self.prior = 10.0 / UNITS
        self.precision = self.x.T @ self.x / SIGMA**2 + self.prior.pow(-2).diag()
        # solved in the columns' own units, so that the oracle does not lose its digits
        scaled = self.precision / UNITS / UNITS.unsqueeze(1)
        self.covariance = torch.linalg.inv(scaled) / UNITS / UNITS.unsqueeze(1)
        self.mean = torch.linalg.solve(scaled, (self.x.T @ self.y) / UNITS / SIGMA**2) / UNITS
        marginal = (self.x * self.prior.square()) @ self.x.T + SIGMA**2 * torch.eye(n).double()
        self.log_evidence = float(dist.MultivariateNormal(torch.zeros(n).double(), marginal).log_prob(self.y))
        # of the independent normal that is nearest in KL(q || p)
        log_det = torch.linalg.slogdet(scaled)[1] + 2 * UNITS.log().sum()
        self.mean_field_gap = float(0.5 * (self.precision.diagonal().log().sum() - log_det))

    def model(self, x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(5), self.prior).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * b).sum(-1), SIGMA), obs=y)

    def as_most_write_it(self, x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(5), self.prior).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ b, SIGMA), obs=y)


@pytest.fixture(scope="module")
def regression() -> Regression:
    return Regression()


def law(fit: Fit) -> dist.MultivariateNormal:
    """The guide's normal of all latents that are real."""
    with fit.pair.scope():
        base = fit.guide.get_posterior()
        while not hasattr(base, "loc"):
            base = base.base_dist
        if hasattr(base, "covariance_matrix"):
            return dist.MultivariateNormal(base.loc.detach(), base.covariance_matrix.detach())
        return dist.MultivariateNormal(base.loc.detach(), base.scale.detach().square().diag())


def assert_is(found: dist.MultivariateNormal, mean: Tensor, covariance: Tensor, tol: float) -> None:
    """Equal in units of the posterior's standard deviations."""
    sd = covariance.diagonal().sqrt()
    torch.testing.assert_close(found.mean / sd, mean / sd, rtol=0, atol=tol)
    scaled = found.covariance_matrix / sd / sd.unsqueeze(1)
    torch.testing.assert_close(scaled, covariance / sd / sd.unsqueeze(1), rtol=0, atol=tol)


@pytest.mark.parametrize("how", ["model", "as_most_write_it"])
def test_full_rank_is_the_posterior(regression, how):
    model = getattr(regression, how)
    fit = DeterministicVI(model, AutoMultivariateNormal(model)).fit((regression.x, regression.y))
    assert fit.certificate.given, fit.certificate
    assert_is(law(fit), regression.mean, regression.covariance, 1e-6)
    numbers = fit.certificate.numbers
    for name in ("elbo", "in_sample_elbo", "log_evidence"):
        assert numbers[name] == pytest.approx(regression.log_evidence, abs=1e-6)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_mean_field_is_the_nearest_one(regression, kind):
    fit = DeterministicVI(regression.model, kind(regression.model)).fit((regression.x, regression.y))
    assert fit.certificate.converged, fit.certificate
    assert not fit.certificate.given
    exact = regression.precision.diagonal().reciprocal()
    with fit.pair.scope():
        if kind is AutoNormal:
            loc, scale = fit.guide.locs.b.detach(), fit.guide.scales.b.detach()
        else:
            loc, scale = law(fit).mean, law(fit).variance.sqrt()
    assert_is(dist.MultivariateNormal(loc, scale.square().diag()), regression.mean, exact.diag(), 1e-6)
    best = regression.log_evidence - regression.mean_field_gap
    assert fit.certificate.numbers["elbo"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("rank", [2, 4])
def test_a_low_rank_that_suffices_is_exact(rank):
    """A posterior with two common factors, beside data that say nothing of it: log Z is that of the data."""
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(6, 2, dtype=torch.float64, generator=generator)
    diagonal, loc = torch.logspace(-2, 2, 6, dtype=torch.float64), torch.arange(6).double()
    factor = factor * diagonal.sqrt().unsqueeze(1)

    def model() -> None:
        pyro.sample("z", dist.LowRankMultivariateNormal(loc, factor, diagonal))
        pyro.sample("y", dist.Normal(torch.tensor(0.0), 1.0), obs=torch.tensor(0.3))

    fit = DeterministicVI(model, AutoLowRankMultivariateNormal(model, rank=rank)).fit(None)
    assert fit.certificate.given, fit.certificate
    exact = -0.5 * math.log(2 * math.pi) - 0.045
    assert fit.certificate.numbers["elbo"] == pytest.approx(exact, abs=1e-3)
    assert_is(law(fit), loc, factor @ factor.T + diagonal.diag(), 0.02)


# latents of each datum, and parameters of the model


class Factor:
    """x = b + w z + noise, z ~ N(0, 1) for each datum: a factor whose posterior is a normal with N locations."""

    def __init__(self, n: int = 40) -> None:
        generator = torch.Generator().manual_seed(2)
        z = torch.randn(n, 1, dtype=torch.float64, generator=generator)
        noise = 0.6 * torch.randn(n, 4, dtype=torch.float64, generator=generator)
        self.x = z @ torch.tensor([[2.0, -1.0, 0.5, 1.0]]).double() + 3.0 + noise
        self.w, self.b, self.sigma = torch.tensor([1.5, -1.0, 0.2, 1.0]).double(), 2.5, 0.8

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.b + z.unsqueeze(-1) * self.w, self.sigma).to_event(1), obs=x)

    def learned(self, x: Tensor) -> None:
        w, b = pyro.param("w", lambda: torch.ones(4)), pyro.param("b", lambda: torch.zeros(4))
        sigma = positive("sigma", 1.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(b + z.unsqueeze(-1) * w, sigma).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, positive("scale", torch.ones(len(x)))))

    def log_evidence(self) -> float:
        covariance = self.w.outer(self.w) + self.sigma**2 * torch.eye(4).double()
        return float(dist.MultivariateNormal(torch.full((4,), self.b).double(), covariance).log_prob(self.x).sum())

    def maximum(self) -> float:
        """Of the likelihood over w, b and σ. Michael Tipping, Christopher Bishop, "Probabilistic PCA", 1999."""
        values = np.linalg.eigvalsh(np.cov(self.x.numpy().T, bias=True))[::-1]
        rest = values[1:].mean()
        return -len(self.x) / 2 * (4 * math.log(2 * math.pi) + math.log(values[0]) + 3 * math.log(rest) + 4)


@pytest.mark.parametrize("auto", [True, False])
def test_free_latents_of_each_datum(auto):
    factor = Factor()
    guide = AutoNormal(factor.model) if auto else factor.guide
    fit = DeterministicVI(factor.model, guide).fit(factor.x)
    assert fit.certificate.converged, fit.certificate
    assert fit.certificate.numbers["elbo"] == pytest.approx(factor.log_evidence(), abs=1e-6)
    assert fit.record.table[-1]["elbo"] == pytest.approx(factor.log_evidence() / len(factor.x), abs=1e-7)
    precision = 1 + float(factor.w.square().sum()) / factor.sigma**2
    exact = (factor.x - factor.b) @ factor.w / factor.sigma**2 / precision
    with fit.pair.scope():
        loc, scale = (fit.guide.locs.z, fit.guide.scales.z) if auto else (pyro.param("loc"), pyro.param("scale"))
    torch.testing.assert_close(loc.detach(), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(scale.detach(), torch.full((40,), precision**-0.5).double())


@pytest.mark.parametrize("auto", [True, False])
def test_parameters_of_the_model_are_fitted_beside_them(auto):
    """The guide is exact, so the maximum of the ELBO over θ and φ is that of the likelihood."""
    factor = Factor()
    guide = AutoNormal(factor.learned) if auto else factor.guide
    fit = DeterministicVI(factor.learned, guide).fit(factor.x)
    assert fit.certificate.converged, fit.certificate
    assert fit.certificate.numbers["elbo"] == pytest.approx(factor.maximum(), abs=0.01)
    torch.testing.assert_close(fit.params["b"].detach(), factor.x.mean(0), rtol=0, atol=0.02)


def test_empirical_bayes():
    """Eight means with a common normal law, whose location and scale are parameters: y ~ N(m, s² + 1)."""
    y = torch.tensor([2.0, 5.0, -1.0, 7.0, 3.0, 8.0, 0.5, 4.0], dtype=torch.float64)

    def model(y: Tensor) -> None:
        m, s = pyro.param("m", lambda: torch.tensor(0.0)), positive("s", 1.0)
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(m, s))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    fit = DeterministicVI(model, AutoNormal(model)).fit(y)
    assert fit.certificate.converged, fit.certificate
    variance = float(y.var(correction=0))
    best = -4 * (math.log(2 * math.pi * variance) + 1)
    assert fit.certificate.numbers["elbo"] == pytest.approx(best, abs=0.01)
    assert float(fit.params["m"]) == pytest.approx(float(y.mean()), abs=0.05)
    assert float(fit.params["s"]) == pytest.approx(math.sqrt(variance - 1), rel=0.03)


@pytest.mark.parametrize("units", [(1e-2, 1.0, 1e4), (1e-4, 1.0, 1e4), (1e-5, 1e-2, 1e3), (1e-3, 1.0, 1e6)])
def test_parameters_of_the_model_in_raw_units(units):
    """Slopes that are θ, not latents, of columns in such units, beside a latent shift: least squares."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(50, 3, dtype=torch.float64, generator=generator) + 1.0
    x = z * torch.tensor(units).double()
    y = z.sum(-1) + 0.5 * torch.randn(50, dtype=torch.float64, generator=generator)

    def model(x: Tensor, y: Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(3))
        shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * slope).sum(-1) + shift, 0.5), obs=y)

    fit = DeterministicVI(model, AutoNormal(model)).fit((x, y))
    design = torch.cat([z, torch.ones(50, 1).double()], 1)
    penalty = torch.tensor([0.0, 0.0, 0.0, 0.25 / 100]).double().diag()
    best = torch.linalg.solve(design.T @ design + penalty, design.T @ y)
    covariance = 100.0 * torch.ones(50, 50).double() + 0.25 * torch.eye(50).double()
    exact = float(dist.MultivariateNormal(z @ best[:3], covariance).log_prob(y))
    assert fit.certificate.converged, fit.certificate
    assert fit.certificate.numbers["elbo"] == pytest.approx(exact, abs=0.01)
