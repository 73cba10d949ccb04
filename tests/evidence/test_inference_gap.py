"""The split of log p - ELBO against closed forms, quadrature, and pairs of every kind."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, data_for
from pyro.infer.autoguide import AutoNormal
from scipy.optimize import minimize
from torch.distributions import kl_divergence

from ppl_vae.evidence import Laplace, inference_gap
from ppl_vae.evidence.free_family import FreeFamily, require_family
from ppl_vae.pair import Pair

DIM, OBSERVED, NOISE = 5, 4, 0.8


class Correlated:
    """z ~ N(0, I), x | z ~ N(W z, NOISE^2 I), with rows of W that have much in common: correlated posteriors."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.W = 1.0 + 0.5 * torch.randn(OBSERVED, DIM, generator=generator, dtype=torch.float64)
        self.precision = torch.eye(DIM, dtype=torch.float64) + self.W.T @ self.W / NOISE**2
        self.covariance = torch.linalg.inv(self.precision)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(DIM), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T, NOISE).to_event(1), obs=x)

    def posterior(self, x):
        return dist.MultivariateNormal(x @ self.W @ self.covariance / NOISE**2, self.covariance)

    def diagonal(self, shift, widen):
        """The best mean field (its precision is the diagonal of the posterior's), moved by its sds and widened."""
        sd = self.precision.diagonal() ** -0.5

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.posterior(x).loc + shift * sd, widen * sd).to_event(1))

        return guide

    def full(self, shift, widen):
        def guide(x):
            exact = self.posterior(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(exact.loc + shift, scale_tril=widen * exact.scale_tril))

        return guide

    def pair(self, guide):
        return Pair(self.model, guide, dtype=torch.float64)

    def data(self, num):
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(num, DIM, generator=generator, dtype=torch.float64)
        return z @ self.W.T + NOISE * torch.randn(num, OBSERVED, generator=generator, dtype=torch.float64)

    @property
    def approximation(self):
        """KL(best mean field || posterior), the same for all data."""
        return float(0.5 * (self.precision.diagonal().log().sum() - self.precision.logdet()))

    def gap(self, guide, x):
        """KL(guide || posterior), (N,)."""
        q = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
        normal = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance)) if hasattr(q, "base_dist") else q
        return kl_divergence(normal, self.posterior(x))


@pytest.fixture(scope="module")
def oracle():
    return Correlated()


def within(found, truth, error, bar=4.5):
    return abs(found - truth) < bar * error + 1e-4


GUIDES = {"best": (0.0, 1.0), "too wide": (0.0, 1.5), "too narrow": (0.0, 0.6), "moved": (0.7, 1.0), "far": (4.0, 3.0)}


@pytest.mark.parametrize("name", GUIDES)
def test_a_mean_field_on_a_correlated_posterior_is_split_as_the_closed_form_says(oracle, name):
    x, guide = oracle.data(60), oracle.diagonal(*GUIDES[name])
    found = inference_gap(oracle.pair(guide), x, Laplace(50), num_samples=400)
    means, errors, total = found.mean(), found.mean_error(), oracle.gap(guide, x)
    assert oracle.approximation > 0.5
    assert within(means["gap"], float(total.mean()), errors["gap"])
    assert within(means["approximation"], oracle.approximation, errors["approximation"])
    assert within(means["amortization"], float(total.mean()) - oracle.approximation, errors["amortization"])
    scores = (found.amortization - (total - oracle.approximation)) / found.standard_error["amortization"].clamp(
        min=1e-3
    )
    assert float(scores.square().mean()) < 1 + 4.5 * (2 / 60) ** 0.5
    assert found.family == "independent normals"
    assert found.last_gain < 0.01


def test_a_family_that_holds_the_posterior_leaves_all_to_amortization(oracle):
    x, guide = oracle.data(60), oracle.full(0.3, 1.4)
    found = inference_gap(oracle.pair(guide), x, Laplace(50), num_samples=400)
    assert float(found.approximation.abs().max()) < 1e-3
    means, errors = found.mean(), found.mean_error()
    assert within(means["amortization"], float(oracle.gap(guide, x).mean()), errors["amortization"])
    assert found.family == "normals with a full covariance"


def test_the_pieces_add_up_row_by_row(oracle):
    x = oracle.data(7)
    found = inference_gap(oracle.pair(oracle.diagonal(0.5, 1.2)), x, num_samples=100)
    assert torch.allclose(found.gap, found.evidence.value - found.elbo, atol=1e-12)
    assert torch.allclose(found.amortization, found.best_elbo - found.elbo, atol=1e-12)
    frame = found.to_dataframe()
    assert len(frame) == 7
    assert frame["gap"].tolist() == pytest.approx((frame["approximation"] + frame["amortization"]).tolist())
    assert "for its family (independent normals)" in repr(found)
    assert "log p by ImportanceWeighted(1000)" in repr(found)


@pytest.mark.parametrize("max_elements", [200, 700])
def test_rows_and_draws_in_pieces_say_the_same(oracle, max_elements):
    x, guide = oracle.data(4), oracle.diagonal(0.5, 1.2)
    found = inference_gap(oracle.pair(guide), x, Laplace(50), num_samples=200, max_elements=max_elements)
    means, errors = found.mean(), found.mean_error()
    assert within(means["approximation"], oracle.approximation, errors["approximation"])
    assert within(means["gap"], float(oracle.gap(guide, x).mean()), errors["gap"])


# -- posteriors that are not normal ------------------------------------------------------------------------------------


def counts(x):
    """A count with a rate on the log scale."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.5))
        pyro.sample("x", dist.Poisson(z.exp()), obs=x[:, 0])


def positive_counts(x):
    """The same with the rate itself as the latent."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.5))
        pyro.sample("x", dist.Poisson(z), obs=x[:, 0])


def of_counts(law):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", law(0.3 * x[:, 0] - 0.5, 0.9 * torch.ones(len(x), dtype=x.dtype)))

    return guide


COUNTS = torch.tensor([[0.0], [1.0], [3.0], [8.0]], dtype=torch.float64)


def best_normal(count):
    """Log p(x), the best ELBO of a normal on the log scale, and that of the guide, by quadrature."""
    grid = np.linspace(-12, 8, 40_001)
    step = grid[1] - grid[0]
    log_p = -0.5 * (grid / 1.5) ** 2 - math.log(1.5 * math.sqrt(2 * math.pi)) + count * grid - np.exp(grid)
    log_p = log_p - math.lgamma(count + 1)

    def bound(parameters):
        mean, sd = parameters[0], math.exp(parameters[1])
        log_q = -0.5 * ((grid - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))
        return float(np.sum(np.exp(log_q) * (log_p - log_q)) * step)

    found = minimize(lambda p: -bound(p), [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    return math.log(np.sum(np.exp(log_p)) * step), -found.fun, bound([0.3 * count - 0.5, math.log(0.9)])


@pytest.mark.parametrize(("model", "law"), [(counts, dist.Normal), (positive_counts, dist.LogNormal)])
def test_the_best_normal_of_counts_is_that_of_quadrature(model, law):
    truth = torch.tensor([best_normal(float(count)) for count in COUNTS[:, 0]], dtype=torch.float64)
    pair = Pair(model, of_counts(law), dtype=torch.float64)
    found = inference_gap(pair, COUNTS, Laplace(20_000), num_samples=20_000)
    error = found.standard_error
    assert bool(((found.best_elbo - truth[:, 1]).abs() < 4.5 * error["best_elbo"] + 1e-3).all())
    assert bool(((found.approximation - (truth[:, 0] - truth[:, 1])).abs() < 4.5 * error["approximation"] + 1e-3).all())
    assert bool(((found.amortization - (truth[:, 1] - truth[:, 2])).abs() < 4.5 * error["amortization"] + 1e-3).all())
    assert float(found.amortization.max()) > 0.1


def test_the_errors_cover(oracle):
    """Over seeds: the two pieces are off by what their errors say."""
    x, guide = oracle.data(2), oracle.diagonal(0.5, 1.3)
    truth = oracle.gap(guide, x) - oracle.approximation
    scores = []
    for seed in range(25):
        found = inference_gap(oracle.pair(guide), x, Laplace(50), num_samples=100, seed=seed)
        scores.append((found.amortization - truth) / found.standard_error["amortization"])
        scores.append((found.approximation - oracle.approximation) / found.standard_error["approximation"])
    spread = torch.stack(scores).square().mean().sqrt()
    assert abs(float(spread) - 1) < 4.5 / (2 * 100) ** 0.5


# -- pairs of every kind -----------------------------------------------------------------------------------------------

FITS = {"functions", "pyro modules", "methods", "tutorial", "annotated", "positive latent", "index trap"}


@pytest.mark.parametrize("name", CASES)
def test_the_family_begins_as_the_guide_or_says_why_there_is_none(name):
    case = CASES[name]
    torch.manual_seed(0)
    pair, x = Pair(*case.make()), data_for(case)
    pair.initialize(x)
    rows = pair.rows(x)
    if name in FITS:
        require_family(pair, rows, "inference_gap")
        begins_as_the_guide(pair, rows)
        return
    with pytest.raises(ValueError, match="^inference_gap: "):
        require_family(pair, rows, "inference_gap")


def begins_as_the_guide(pair, rows):
    """Parameters of zeros have the guide's density, in the space of u."""
    family = FreeFamily.of(pair, rows)
    noise = torch.randn(3, len(rows), family.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, log_q = family.place(family.guide, noise)
    by_site, begin = {}, 0
    for name, shape in family.shapes.items():
        size = math.prod(shape)
        by_site[name] = u[..., begin : begin + size].reshape(*u.shape[:2], *shape)
        begin += size
    values = pair.constrain(rows, by_site)
    _, log_det = pair.unconstrain(rows, values)
    expected = pair.log_guide(rows, values).total + log_det
    assert torch.allclose(log_q, expected, rtol=1e-3, atol=1e-3)


def several(x):
    """A vector with a covariance in a plate of the datum's own, a positive number, and shares of three."""
    data = pyro.plate("data", len(x), dim=-2)
    with data, pyro.plate("parts", 2, dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with data:
        s = pyro.sample("s", dist.Gamma(x.new_tensor(2.0), 1.0))
        w = pyro.sample("w", dist.Dirichlet(x.new_ones(3)))
        loc = z.sum(-1).sum(-1, keepdim=True) + w[..., 0]
        pyro.sample("x", dist.Normal(loc, s), obs=x[:, :1])


def of_several(x):
    tril = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.1, 0.3, 0.6]], dtype=x.dtype)
    data = pyro.plate("data", len(x), dim=-2)
    with data, pyro.plate("parts", 2, dim=-1):
        loc = torch.stack([x, 0.5 * x], 1)
        pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril * (1 + x[:, :1].abs()).reshape(-1, 1, 1, 1)))
    with data:
        pyro.sample("s", dist.LogNormal(x[:, :1], 0.3))
        base = dist.Normal(x[:, None, :2], 0.4).to_event(1)
        pyro.sample("w", dist.TransformedDistribution(base, [torch.distributions.StickBreakingTransform()]))


def test_plates_covariances_and_supports_begin_as_the_guide():
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    pair = Pair(several, of_several, dtype=torch.float64)
    pair.initialize(x)
    rows = pair.rows(x)
    require_family(pair, rows, "inference_gap")
    family = FreeFamily.of(pair, rows)
    assert family.shapes == {"z": (2, 3), "s": (), "w": (2,)}
    assert len(family.free) == 2 * 3
    begins_as_the_guide(pair, rows)
    found = inference_gap(pair, x, num_samples=100)
    assert bool((found.amortization > 0).all())


def line(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def by(law):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", law(x[:, 0]))

    return guide


def test_what_has_no_such_family_is_named():
    x = torch.ones(4, 1)

    def chain(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def of_chain(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, 0], 1.0))
            pyro.sample("z", dist.Normal(a + x[:, 0], 1.0))

    with pytest.raises(ValueError, match="the normal of 'z' hangs on other draws"):
        inference_gap(Pair(chain, of_chain), x)
    with pytest.raises(ValueError, match="'z' is not: it stands on Laplace"):
        inference_gap(Pair(line, by(lambda loc: dist.Laplace(loc, 1.0))), x)
    with pytest.raises(ValueError, match="its latents follow from the draw of 'z_unconstrained'"):
        inference_gap(Pair(line, AutoNormal(line)), x)
    twice = [torch.distributions.AffineTransform(0.0, 2.0)]
    doubled = Pair(line, by(lambda loc: dist.TransformedDistribution(dist.Normal(loc, 1.0), twice)))
    with pytest.raises(ValueError, match="'z' is carried onto its support by another map"):
        inference_gap(doubled, x)
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        inference_gap(Pair(line, by(lambda loc: dist.Normal(loc, 1.0))), x, num_samples=1)
