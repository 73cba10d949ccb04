"""Evidence by a proposal at the mode, against closed forms, enumeration and quadrature."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from pyro.infer.autoguide import AutoNormal

from ppl_vae.evidence import ImportanceWeighted, Laplace, log_evidence
from ppl_vae.evidence.newton import mode_of
from ppl_vae.pair import Pair


class Correlated:
    """z of D standard normals, x = z W + noise, such that all posterior correlations are rho; a mean-field guide."""

    def __init__(self, size, rho, dtype=torch.float64, rows=200):
        source = torch.Generator().manual_seed(1)
        covariance = 0.5 / size * (rho + (1 - rho) * torch.eye(size, dtype=torch.float64))
        precision = torch.linalg.inv(covariance)
        root = torch.linalg.cholesky(precision - torch.eye(size, dtype=torch.float64))
        z = torch.randn(rows, size, generator=source, dtype=torch.float64)
        x = z @ root + torch.randn(rows, size, generator=source, dtype=torch.float64)
        marginal = root.mT @ root + torch.eye(size, dtype=torch.float64)
        self.truth = dist.MultivariateNormal(torch.zeros(size).double(), marginal).log_prob(x)
        self.loc, self.scale = (x @ root.mT @ covariance).to(dtype), precision.diagonal().rsqrt().to(dtype)
        self.root, self.x, self.size = root.to(dtype), x.to(dtype), size
        self.pair = Pair(self.model, self.guide, dtype=dtype)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.root, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))


@pytest.mark.parametrize(("size", "rho"), [(2, 0.9), (10, 0.5), (20, 0.5), (20, 0.9)])
def test_a_normal_posterior_is_exact_however_correlated(size, rho):
    problem = Correlated(size, rho)
    found = log_evidence(problem.pair, problem.x, Laplace(100))
    torch.testing.assert_close(found.value, problem.truth, atol=1e-9, rtol=1e-9)
    assert (found.standard_error == 0).all()
    assert (found.khat == 0).all()
    assert found.reliable.all()
    plain = log_evidence(problem.pair, problem.x, ImportanceWeighted(100))
    if size == 20:
        assert float((problem.truth - plain.value).mean()) > 0.2  # what the guide's correlations cost


def test_single_precision_is_exact_to_its_own_digits():
    problem = Correlated(10, 0.9, torch.float32)
    found = log_evidence(problem.pair, problem.x, Laplace(100))
    torch.testing.assert_close(found.value, problem.truth, atol=1e-4, rtol=1e-5)


def gamma_poisson(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def far_off(x):
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.LogNormal(torch.full_like(x, 3.0), 0.1))


def test_a_positive_latent_far_from_the_guide_is_found():
    x = torch.arange(40.0, dtype=torch.float64).repeat(25)
    pair = Pair(gamma_poisson, far_off, dtype=torch.float64)
    a, b = 2.0, 0.5
    normal = torch.lgamma(x + a) - math.lgamma(a) - torch.lgamma(x + 1)
    truth = normal + a * math.log(b / (1 + b)) - x * math.log(1 + b)
    found = log_evidence(pair, x, Laplace(200))
    covered = ((found.value - truth).abs() < 1.96 * found.standard_error).double().mean()
    assert covered > 0.9
    assert found.reliable.double().mean() > 0.95
    mean = found.mean()
    assert mean.interval(0.9999)[0] < float(truth.mean()) < mean.interval(0.9999)[1]


def either_sign(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(z.abs(), 0.1), obs=x)


def test_a_mode_that_the_guide_meets_and_the_proposal_misses_takes_the_trust_away():
    x = torch.linspace(2.0, 5.0, 30, dtype=torch.float64)

    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5, torch.full_like(x, 3.0)))

    found = log_evidence(Pair(either_sign, wide, dtype=torch.float64), x, Laplace(100))
    assert found.reliable.double().mean() < 0.2  # of a few, no draw of the guide has come near
    assert (found.khat == math.inf).double().mean() > 0.8


EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def schools():
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0).double(), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0).double()))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(torch.tensor(0.0).double(), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * theta, ERRORS), obs=EFFECTS)


def test_a_skewed_posterior_is_not_called_reliable():
    found = log_evidence(Pair(schools, AutoNormal(schools), dtype=torch.float64), None, Laplace(100_000))
    assert not found.reliable
    assert abs(float(found.value) + 31.3113474) < 1.0  # by quadrature


def test_latents_of_all_data_with_an_autoguide_that_was_never_fitted():
    source = torch.Generator().manual_seed(3)
    x = torch.randn(60, 5, generator=source, dtype=torch.float64) @ torch.randn(5, 5, generator=source).double()
    y = x.sum(-1) + torch.randn(60, generator=source, dtype=torch.float64)

    def model(x, y):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(5).double(), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ weights, 1.0), obs=y)

    truth = dist.MultivariateNormal(torch.zeros(60).double(), x @ x.T + torch.eye(60).double()).log_prob(y)
    found = log_evidence(Pair(model, AutoNormal(model), dtype=torch.float64), (x, y), Laplace(100))
    torch.testing.assert_close(found.value, truth, atol=1e-8, rtol=1e-8)


def two_kinds(x):
    with pyro.plate("data", len(x)):
        kind = pyro.sample("kind", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + 0.5 * kind, 1.0), obs=x)


def test_a_latent_that_is_summed_out_is_no_hindrance():
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    sd = math.sqrt(2.0)
    parts = torch.stack([dist.Normal(m, sd).log_prob(x) + math.log(p) for m, p in ((0.5, 0.3), (0.0, 0.7))])
    found = log_evidence(Pair(two_kinds, guide, dtype=torch.float64), x, Laplace(500))
    torch.testing.assert_close(found.value, parts.logsumexp(0), atol=0.01, rtol=0)
    assert (found.standard_error < 0.005).all()


def test_what_rows_a_run_holds_is_no_matter_but_for_noise():
    problem = LinearGaussian()
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    few = log_evidence(problem.pair(0.3, 0.8), x, Laplace(64), max_elements=300)
    torch.testing.assert_close(few.value, problem.log_marginal(x), atol=1e-9, rtol=0)


def test_the_modes_of_many_densities_are_found_at_once():
    centre = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64)

    def density(u):  # cosh has a curvature that is next to none far out
        return -(u[..., 0] - centre).cosh().log() - 2 * (u[..., 1] - centre * u[..., 0]) ** 2

    found = mode_of(density, torch.zeros(9, 2).double(), torch.ones(9, 2).double())
    torch.testing.assert_close(found.loc, torch.stack([centre, centre**2], -1), atol=1e-3, rtol=0)
    precision = torch.linalg.inv(found.factor @ found.factor.mT)
    torch.testing.assert_close(precision[:, 0, 0], 1 + 4 * centre**2, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.log_det_factor, torch.linalg.slogdet(found.factor)[1], rtol=1e-6, atol=1e-9)


def test_codes_many_latents_and_few_draws_are_said_no_to():
    x = torch.zeros(3, dtype=torch.float64)

    def code(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Bernoulli(0.5)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.full_like(x, 0.5)))

    with pytest.raises(ValueError, match="continuous latents are required, but 'z' are discrete"):
        log_evidence(Pair(code, guide, dtype=torch.float64), x, Laplace(100))
    problem = Correlated(51, 0.1)
    with pytest.raises(
        ValueError, match=r"Laplace\(100\): at most 50 latents of a datum .* got 51; ImportanceWeighted"
    ):
        log_evidence(problem.pair, problem.x, Laplace(100))
    with pytest.raises(ValueError, match=r"Laplace\(3\): at least 4 draws"):
        log_evidence(Correlated(2, 0.1).pair, Correlated(2, 0.1).x, Laplace(3))
