"""Evidence by annealing, from both sides, against closed forms, enumeration and quadrature."""

import math

import pyro
import pyro.distributions as dist
import pytest
import schools
import torch
from linear_gaussian import LATENT, LinearGaussian, z_score
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from scipy import special

import ppl_vae
from ppl_vae.evidence import HMC, Annealed, Bridge, Laplace, Sequential, bidirectional, log_evidence, sandwich
from ppl_vae.evidence.annealing.errors import pooled_variance, relative_variance
from ppl_vae.evidence.annealing.path import Path
from ppl_vae.evidence.annealing.schedule import tuned
from ppl_vae.models import Energy
from ppl_vae.pair import Pair

FEW = Annealed(40, 16)


def problem(rows=300):
    known = LinearGaussian()
    x = known.data(rows)
    return known, known.pair(shift=0.3, widen=0.8), x


@pytest.mark.parametrize(
    "estimator",
    [FEW, Annealed(20, 16, HMC(3), start="guide"), Sequential(15, 64)],
    ids=["prior", "guide", "sequential"],
)
def test_the_mean_weight_is_unbiased_and_its_error_holds(estimator):
    known, pair, x = problem()
    off = log_evidence(pair, x, estimator).value - known.log_marginal(x)
    assert abs(z_score(off.exp() - 1)) < 4.5
    found = log_evidence(pair, x, estimator, seed=1)
    hit = (found.value - known.log_marginal(x)).abs() < 1.96 * found.standard_error
    assert found.bound == "lower"
    assert float(found.reliable.double().mean()) > 0.8
    assert float(hit[found.reliable].double().mean()) > 0.9
    assert float(found.standard_error.nanmean()) < 0.3


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_way_back_from_exact_draws_is_unbiased_for_the_inverse(start):
    known, pair, x = problem()
    estimator = Annealed(40, 16, start=start)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        exact = {"z": known.posterior(x).sample((1,))}
    pair.initialize(x)
    above = estimator.reverse(estimator.prepared(pair, pair.rows(x), 0), exact)
    off = above.value - known.log_marginal(x)
    assert above.bound == "upper"
    assert abs(z_score((-off).exp() - 1)) < 4.5
    assert z_score(off) > 0  # by Jensen's inequality
    below = log_evidence(pair, x, estimator)
    assert z_score(above.value - below.value) > -4.5


def test_draws_that_are_not_of_the_posterior_are_no_bound():
    known, pair, x = problem()
    pair.initialize(x)
    off_mode = {"z": known.posterior(x).mean.unsqueeze(0) + 2.0}
    prepared = FEW.prepared(pair, pair.rows(x), 0)
    moved = FEW.reverse(prepared, off_mode, bound="estimate")
    assert moved.bound == "estimate"
    assert "estimate" in repr(moved)
    assert z_score(moved.value - known.log_marginal(x)) < -4.5  # the chains begin where the posterior hardly is
    settled = FEW.reverse(prepared, off_mode, bound="estimate", transitions=30)
    assert abs(float((settled.value - known.log_marginal(x)).mean())) < 0.1


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("num_leapfrog", [1, 4])
def test_a_transition_leaves_its_density_as_it_is(start, num_leapfrog):
    known, pair, x = problem(rows=2)
    pair.initialize(x)
    path = Path.of(pair, pair.rows(x).take(slice(None)), start, 3)
    kernel, exact = HMC(num_leapfrog), known.posterior(x)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        draws = exact.sample((20_000,))
        point = path.at(path.of_values({"z": draws}))
        for _ in range(5):
            point, rate = kernel(path, point, 1.0, torch.full((2,), 0.9, dtype=torch.float64))
    z = path.to_u(point.v)
    assert float(rate.min()) < 0.99  # some are refused: else the test of acceptance is not tested
    white = torch.linalg.solve_triangular(exact.scale_tril, (z - exact.mean).unsqueeze(-1), upper=False).squeeze(-1)
    assert float((draws - z).abs().mean()) > 0.05  # it does move
    for values, sd in ((white, 1.0), (white.square() - 1, 2**0.5), (white[..., 0] * white[..., 1], 1.0)):
        assert float(values.mean(0).abs().max()) < 4.5 * sd / 20_000**0.5


def test_the_path_is_the_model_at_its_end_and_the_start_at_its_beginning():
    known, pair, x = problem(rows=3)
    pair.initialize(x)
    rows = pair.rows(x).take(slice(None))
    z = torch.randn(4, 3, LATENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = dist.Normal(torch.zeros(LATENT).double(), 1.0).to_event(1).log_prob(z)
    for start in ("prior", "guide"):
        path = Path.of(pair, rows, start, 0)
        point = path.at(path.of_values({"z": z}))
        torch.testing.assert_close(point.log_density(1.0), pair.log_joint(x, {"z": z}).total)
        torch.testing.assert_close(path.to_u(point.v), z)
        for beta in (0.0, 0.3, 1.0):
            v = point.v.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(_by_hand(path, known, x, v, beta).sum(), v)
            torch.testing.assert_close(point.gradient(beta), gradient)
        if start == "prior":
            torch.testing.assert_close(point.base, prior)


def _by_hand(path, known, x, v, beta):
    u = path.to_u(v)
    likelihood = dist.Normal(u @ known.W.T + known.mu, 0.8).to_event(1).log_prob(x)
    prior = dist.Normal(torch.zeros(LATENT).double(), 1.0).to_event(1).log_prob(u)
    base = prior if path.start == "prior" else dist.MultivariateNormal(path.loc, scale_tril=path.factor).log_prob(u)
    return (1 - beta) * base + beta * (prior + likelihood)


def test_temperatures_stand_where_the_path_is_long():
    _, pair, x = problem(rows=20)
    pair.initialize(x)
    path = Path.of(pair, pair.rows(x).take(slice(None)), "prior", 0)
    schedule = tuned(path, HMC(), 100, 16, 0)
    betas = torch.tensor(schedule.betas)
    assert len(betas) == 101
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert bool((betas.diff() > 0).all())
    assert betas[10] < 0.06  # the likelihood of draws of the prior spreads most
    assert schedule.step_sizes.shape == (101, 20)
    assert 0.1 < float(schedule.step_sizes.min()) < float(schedule.step_sizes.max()) < 3.0


def test_one_draw_decides_no_other_and_a_seed_decides_all():
    _, pair, x = problem(rows=30)
    before = torch.get_rng_state()
    first, again = (log_evidence(pair, x, FEW, seed=3).value for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, log_evidence(pair, x, FEW, seed=4).value)
    cut = log_evidence(pair, x, FEW, max_elements=1000)
    assert cut.value.shape == (30,)
    assert float((cut.value - first).abs().max()) < 1.5


def test_latents_that_all_data_share():
    pair = Pair(schools.non_centred, AutoNormal(schools.non_centred), dtype=torch.float64)
    for estimator in (Annealed(100, 256), Sequential(50, 500)):
        found = log_evidence(pair, schools.DATA, estimator)
        assert found.value.shape == ()
        assert abs(float(found.value) - schools.LOG_Z) < 4.5 * float(found.standard_error)
        assert float(found.standard_error) < 0.1


def test_a_normal_start_misses_a_funnel_and_does_not_know_it():
    """What docs/evidence.md warns of: chains from the moments of a guide that has not met the funnel's neck."""
    fit = ppl_vae.DeterministicVI(schools.centred, AutoNormal(schools.centred)).fit(schools.DATA)
    found = log_evidence(fit, schools.DATA, Annealed(100, 64, start="guide"))
    assert bool(found.reliable)
    assert float(found.value) - schools.LOG_Z < -4.5 * float(found.standard_error)


def u1(z):
    ring = ((z.norm(dim=-1) - 2) / 0.4).square() / 2
    return -ring + torch.logaddexp(*(-((z[..., 0] + side) / 0.6).square() / 2 for side in (-2, 2)))


def wide(shape=2):
    def guide():
        pyro.sample("z", dist.Normal(torch.zeros(shape), 2.0).to_event(1))

    return guide


def test_two_modes_of_an_energy():
    pair = Pair(Energy(u1, shape=2), wide())
    found = log_evidence(pair, None, Annealed(100, 400, start="guide"))
    assert abs(float(found.value) - 1.87750163) < 4.5 * float(found.standard_error)
    assert float(found.standard_error) < 0.05
    with pytest.raises(ValueError, match="improper|factor|drawn"):
        log_evidence(pair, None, FEW)


def mixture(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        c = pyro.sample("c", dist.Bernoulli(torch.sigmoid(z)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + 2 * c, 0.7), obs=x)


def tied(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(2 * c, 1.0))
        pyro.sample("x", dist.Normal(z + c, 0.7), obs=x)


def of_z(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_latents_that_the_model_sums_out():
    x = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64).unsqueeze(-1)
    one = torch.sigmoid(grid)
    density = sum(p * dist.Normal(grid + 2 * c, 0.7).log_prob(x).exp() for c, p in ((0, 1 - one), (1, one)))
    truth = torch.trapezoid(density * dist.Normal(0.0, 1.0).log_prob(grid).exp(), grid, dim=0).log()
    pair = Pair(mixture, of_z, dtype=torch.float64)
    for start in ("prior", "guide"):
        found = log_evidence(pair, x, Annealed(60, 64, start=start))
        assert float(((found.value - truth).abs() / found.standard_error).max()) < 4.5
    both = torch.stack(
        [dist.Normal(0.0, (1 + 0.49) ** 0.5).log_prob(x), dist.Normal(3.0, (1 + 0.49) ** 0.5).log_prob(x)]
    )
    truth = (both + torch.tensor([0.7, 0.3], dtype=torch.float64).log().unsqueeze(-1)).logsumexp(0)
    pair = Pair(tied, of_z, dtype=torch.float64)
    with pytest.raises(ValueError, match="only total"):
        log_evidence(pair, x, FEW)
    found = log_evidence(pair, x, Annealed(60, 64, start="guide"))
    assert float(((found.value - truth).abs() / found.standard_error).max()) < 4.5


def bounded(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        near = (x - z).abs() < 1.0
        pyro.factor("x", torch.where(near, -math.log(2.0), -math.inf))


def test_points_that_the_model_excludes():
    x = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    normal = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    truth = ((normal.cdf(x + 1) - normal.cdf(x - 1)) / 2).log()
    found = log_evidence(Pair(bounded, of_z, dtype=torch.float64), x, Annealed(100, 256))
    assert bool(found.standard_error.isfinite().all())
    assert float(((found.value - truth).abs() / found.standard_error).max()) < 4.5


def test_too_few_temperatures_have_no_error():
    known, pair, x = problem(rows=50)
    found = log_evidence(pair, x, Annealed(1, 16, HMC(1)))
    assert not bool(found.reliable.any())
    assert float((found.value - known.log_marginal(x)).mean()) < -0.3
    assert bool(log_evidence(pair, x, Annealed(40, 1)).standard_error.isnan().all())


def test_what_has_been_left_behind_counts_for_nothing():
    weights = torch.randn(16, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5
    plain = relative_variance(weights, None)
    expected = (math.exp(0.25) - 1) / 16
    assert abs(float(plain.mean()) / expected - 1) < 0.1
    weights[:4] = -1000.0
    assert abs(float(relative_variance(weights, None).mean()) / ((math.exp(0.25) / 0.75 - 1) / 16) - 1) < 0.1
    weights[:15] = -math.inf
    assert not bool(relative_variance(weights, None).isfinite().any())  # one that is left has no spread


def test_discrete_latents_are_refused_by_name():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.3)))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.full_like(x, 0.5)))

    with pytest.raises(ValueError, match="'c' are discrete"):
        log_evidence(Pair(model, guide), torch.zeros(3), FEW)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Annealed(0),
        lambda: Annealed(10, 0),
        lambda: Annealed(start="posterior"),
        lambda: HMC(0),
        lambda: HMC(2, 1.0),
    ],
)
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match="required"):
        make()


def masked(x, mask):
    with pyro.plate("data", len(x)), poutine.mask(mask=mask):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def masked_guide(x, mask):
    with pyro.plate("data", len(x)), poutine.mask(mask=mask):
        pyro.sample("z", dist.Normal(x / 2, 0.7))


@pytest.mark.parametrize("estimator", [FEW, Annealed(20, start="guide"), Bridge(256), Laplace(100)])
def test_latents_that_a_mask_takes_away_have_no_integral(estimator):
    x, mask = torch.randn(4, dtype=torch.float64), torch.tensor([True, True, False, True])
    with pytest.raises(ValueError, match="a mask takes 'z' away"):
        log_evidence(Pair(masked, masked_guide, dtype=torch.float64), (x, mask), estimator)


def above_x(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Exponential(x.new_ones(())))
        pyro.sample("x", dist.Uniform(0.0, z, validate_args=False), obs=x)


def above_x_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal((x + 1).log(), 0.5))


def test_the_way_back_has_no_error_where_the_model_excludes_draws_of_the_start():
    x = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    truth = torch.from_numpy(special.exp1(x.numpy())).log()
    pair = Pair(above_x, above_x_guide, dtype=torch.float64).initialize(x)
    exact = x + torch.distributions.Gamma(0.5, 1.0).sample((16, 3)).double() + 1e-3
    estimator = Annealed(30, 16)
    found = estimator.reverse(estimator.prepared(pair, pair.rows(x), 0), {"z": exact})
    assert bool(found.standard_error.isnan().all())
    assert bool((found.value > truth).all())


def test_few_chains_of_a_single_row_have_a_wider_error_or_none():
    known, pair, x = problem(rows=1)
    assert bool(log_evidence(pair, x, Annealed(40, 4)).standard_error.isnan().all())
    weights = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    own = relative_variance(weights, None)
    assert float(pooled_variance(own, weights, 0.5) / own) == pytest.approx((2.3646 / 1.95996) ** 2, rel=1e-3)
    offs = []
    for seed in range(25):
        found = log_evidence(pair, x, Annealed(20, 8), seed=seed)
        if bool(found.reliable):
            offs.append(float((found.value - known.log_marginal(x)) / found.standard_error))
    assert len(offs) > 10
    assert sum(abs(off) < 1.96 for off in offs) / len(offs) > 0.8


def test_a_mistyped_estimator_is_told():
    _, pair, x = problem(rows=2)
    for wrong in (100, Annealed, Sequential(10, 8), Bridge(256)):
        with pytest.raises(TypeError, match="chains that walk back"):
            sandwich(pair, x, wrong)
    with pytest.raises(ValueError, match="num_data"):
        bidirectional(pair, x, FEW, num_data=0)
    with pytest.raises(ValueError, match="whole numbers"):
        Annealed(10.5)
    with pytest.raises(ValueError, match="kernel"):
        Annealed(10, kernel="HMC")
