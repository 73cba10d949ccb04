"""A posterior by NUTS beside the guide: closed forms, Pyro's own driver, and what is said of chains that fail."""

from __future__ import annotations

import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import schools
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from regressions import DOUBLE, Conjugate
from scipy.stats import wasserstein_distance

from ppl_vae._random import fold, isolated_rng
from ppl_vae.diagnostics import Reference, reference
from ppl_vae.diagnostics.reference.beside import Beside, ChainMoments, Moments
from ppl_vae.diagnostics.reference.distance import chance_of, wasserstein
from ppl_vae.diagnostics.reference.nuts import Chain, Energy, Settings, run
from ppl_vae.diagnostics.reference.refer import _compared
from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.pair import Pair

RHO = 0.7


def correlated() -> Conjugate:
    """Two slopes whose columns are correlated, so that their posterior is."""
    x = torch.randn(60, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    x[:, 1] = RHO * x[:, 0] + (1 - RHO**2) ** 0.5 * x[:, 1]
    noise = torch.randn(60, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    return Conjugate(x, x.sum(1) + 0.7 * noise)


LINES = correlated()


def mean_field(x, y=None):
    """The best guide of independent normals: its precisions are those of the posterior's diagonal."""
    precision = torch.linalg.inv(LINES.covariance).diagonal()
    pyro.sample("w", dist.Normal(LINES.mean, precision**-0.5).to_event(1))


@pytest.fixture(scope="module")
def exact() -> Reference:
    return reference(Pair(LINES.model, LINES.guide(), dtype=DOUBLE), LINES.data, num_samples=400, warmup=100)


@pytest.fixture(scope="module")
def narrow(exact) -> Reference:
    """The best independent normals beside the same chains, which know nothing of the guide."""
    pair = Pair(LINES.model, mean_field, dtype=DOUBLE).initialize(LINES.data)
    chains = [Chain(u, flags, 0) for u, flags in zip(exact.draws["w"], exact.diverging, strict=True)]
    guide = pair.draw(LINES.data, 800, seed=1).values
    return _compared(pair, pair.rows(LINES.data), exact.draws, guide, chains, seed=1, max_elements=MAX_ELEMENTS)


# -- closed forms ----------------------------------------------------------------------------------------------------


def test_the_chains_have_the_moments_of_a_conjugate_posterior(exact):
    sd = LINES.covariance.diagonal().sqrt()
    assert exact.draws["w"].shape == (2, 400, 2) and exact.names == ("w[0]", "w[1]")
    assert bool(((exact.nuts.mean - LINES.mean).abs() < 4.5 * exact.nuts.mean_error).all())
    assert bool(((exact.nuts.sd - sd).abs() < 4.5 * exact.nuts.sd_error).all())
    for place, probability in enumerate((0.05, 0.5, 0.95)):
        truth = dist.Normal(LINES.mean, sd).icdf(torch.tensor(probability, dtype=DOUBLE))
        assert bool(((exact.nuts.quantiles[place] - truth).abs() < 4.5 * exact.nuts.quantile_errors[place]).all())
    correlation = torch.corrcoef(exact.draws["w"].flatten(0, 1).T)[0, 1]
    truth = LINES.covariance[0, 1] / sd.prod()
    assert abs(float(correlation - truth)) < 4.5 * float(1 - truth**2) / float(exact.nuts.ess.min()) ** 0.5


def test_an_exact_guide_agrees(exact):
    assert exact.agrees and exact.trusted and not exact.mended
    assert bool((exact.guide.distance < exact.guide.chance).all())
    assert "the guide agrees in all 2 numbers: w[" in repr(exact) and "NOT TO BE TRUSTED" not in repr(exact)
    assert "no divergences" in repr(exact)


def test_a_mean_field_guide_is_too_narrow_by_the_known_factor_and_weights_mend_it(narrow):
    """sd of the guide over that of the posterior: 1 / sqrt(precision_ii covariance_ii)."""
    factor = (torch.linalg.inv(LINES.covariance).diagonal() * LINES.covariance.diagonal()) ** -0.5
    assert 0.6 < float(factor.max()) < 0.8
    guide = narrow.guide
    assert bool(((guide.sd_ratio - factor).abs() < 4.5 * guide.sd_ratio_error).all())
    assert bool((guide.shift.abs() < 4.5 * guide.shift_error).all())
    # Normals with one mean and sds 1 and r are sqrt(2 / pi) |1 - r| apart.
    apart = (2 / torch.pi) ** 0.5 * (1 - factor)
    assert bool(((guide.distance - apart).abs() < guide.chance).all())
    assert not narrow.agrees and narrow.mended and narrow.trusted
    assert f"OFF in 2 of 2 numbers: w[{int(guide.distance.argmax())}] (sd 0." in repr(narrow)
    assert "Its weighted draws agree (k-hat" in repr(narrow)
    frame = narrow.to_dataframe()
    assert frame["guide_reading"].str.match(r"sd 0\.\d\d of NUTS's").all() and (frame["weighted_reading"] == "").all()
    assert list(frame.index) == ["w[0]", "w[1]"] and not frame.isna().any().any()
    np.testing.assert_allclose(frame["guide_sd_ratio"], guide.sd_ratio)
    np.testing.assert_allclose(frame[["q5", "q50", "q95"]].T, narrow.nuts.quantiles)


def test_the_figure_shows_every_number_the_farthest_first(narrow):
    labels = [text.get_text() for text in narrow.plot().get_yticklabels()]
    assert labels == [narrow.names[place] for place in narrow.guide.farthest()]


def test_the_chains_for_arviz(exact):
    idata = exact.to_inference_data()
    np.testing.assert_array_equal(idata["posterior"]["w"].values, exact.draws["w"].numpy())
    assert idata["sample_stats"]["diverging"].values.sum() == 0


def test_one_seed_gives_one_answer():
    options = {"num_samples": 10, "warmup": 10}
    pair = Pair(LINES.model, mean_field, dtype=DOUBLE)
    once, again, other = (reference(pair, LINES.data, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(once.draws["w"], again.draws["w"]) and not torch.equal(once.draws["w"], other.draws["w"])


# -- what NUTS runs on -----------------------------------------------------------------------------------------------


def energy_of(pair: Pair, data) -> tuple[Energy, torch.Tensor]:
    """The energy, and a place."""
    rows = pair.rows(data)
    pair.initialize(rows)
    values = pair.draw(rows, 1).values
    u = pair.unconstrain(rows, {name: values[name] for name in pair.latents})[0]
    energy = Energy(pair, rows, u)
    return energy, energy.flat.joined(u)[0].to(DOUBLE)


def test_the_draws_are_those_of_pyro_s_own_driver():
    pair = Pair(schools.non_centred, AutoNormal(schools.non_centred), dtype=DOUBLE)
    energy, start = energy_of(pair, schools.DATA)
    found = run(pair, energy, start, Settings(15, 15, 0.8), seed=5)
    assert found.u.shape == (15, 10) and found.u.dtype == DOUBLE and found.gradients == energy.calls
    logger = logging.getLogger("pyro.infer.mcmc")
    before = logger.handlers[:], logger.propagate, logger.level
    with pair.scope(), isolated_rng(fold(5, "chain")):
        kernel = NUTS(potential_fn=energy, full_mass=True)
        chain = MCMC(kernel, 15, 15, initial_params={"u": start}, disable_progbar=True, disable_validation=None)
        chain.run()
    logger.handlers[:], logger.propagate, logger.level = *before[:2], before[2]
    assert torch.equal(found.u, chain.get_samples()["u"])
    assert found.diverging.nonzero().flatten().tolist() == chain.diagnostics()["divergences"]["chain 0"]


def test_nothing_of_the_caller_s_is_touched_or_looked_at():
    pair = Pair(LINES.model, mean_field, dtype=torch.float32)
    logger, state = logging.getLogger("pyro.infer.mcmc"), torch.get_rng_state()
    before = logger.handlers[:], logger.propagate
    with torch.no_grad(), poutine.trace() as trace, poutine.scale(scale=7.0):
        found = reference(pair, LINES.data, num_samples=8, warmup=8)
    assert torch.equal(torch.get_rng_state(), state) and (logger.handlers, logger.propagate) == before
    assert not trace.trace.nodes and not len(pyro.get_param_store())
    assert torch.equal(found.draws["w"], reference(pair, LINES.data, num_samples=8, warmup=8).draws["w"])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_energy_is_that_of_unconstrained_latents_with_its_gradient(dtype):
    energy, place = energy_of(Pair(schools.centred, AutoNormal(schools.centred), dtype=dtype), schools.DATA)
    assert list(energy.flat.shapes) == ["mu", "tau", "theta"]

    def by_hand(u):
        mu, tau, theta = u[0], u[1].exp(), u[2:]
        log_p = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfCauchy(torch.tensor(5.0, dtype=DOUBLE)).log_prob(tau)
        log_p = log_p + u[1] + dist.Normal(mu, tau).log_prob(theta).sum()
        return -(log_p + dist.Normal(theta, schools.ERROR).log_prob(schools.EFFECT).sum())

    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    u = place.clone().requires_grad_()
    found = energy({"u": u})
    assert found.dtype == DOUBLE
    torch.testing.assert_close(found, by_hand(u), **close)
    torch.testing.assert_close(torch.autograd.grad(found, u)[0], torch.autograd.grad(by_hand(u), u)[0], **close)


def classes(x):
    """A location of all rows, and a class of each that is summed out."""
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc + 2.0 * c, 1.0), obs=x)


def test_what_the_model_sums_out_is_summed_out():
    x = torch.tensor([0.3, 1.9, -0.4, 2.2], dtype=DOUBLE)
    pair = Pair(classes, AutoNormal(poutine.block(classes, hide=["c"])), dtype=DOUBLE)
    energy, _ = energy_of(pair, x)
    for value in (-1.0, 0.5):
        loc = torch.tensor(value, dtype=DOUBLE)
        each = 0.7 * dist.Normal(loc, 1.0).log_prob(x).exp() + 0.3 * dist.Normal(loc + 2, 1.0).log_prob(x).exp()
        truth = -(dist.Normal(0.0, 3.0).log_prob(loc) + each.log().sum())
        torch.testing.assert_close(energy({"u": loc.reshape(1)}), truth)


def test_theta_is_held_and_has_no_gradient():
    def model(x):
        slope = pyro.param("slope", torch.tensor(2.0, dtype=DOUBLE))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    pair = Pair(model, AutoNormal(model), dtype=DOUBLE)
    found = reference(pair, torch.ones(5, dtype=DOUBLE), num_samples=8, warmup=8)
    assert found.draws["z"].shape == (2, 8)
    assert float(pair.params["slope"]) == 2.0
    assert all(leaf.grad is None for leaf in pair.parameters_by_name().values())


def test_latents_of_a_few_rows(exact_pair, x):
    found = reference(exact_pair, x[:2], num_samples=60, warmup=40)
    assert found.names[:5] == ("z[0, 0]", "z[0, 1]", "z[0, 2]", "z[0, 3]", "z[1, 0]") and len(found.names) == 8
    assert found.agrees and found.draws["z"].shape == (2, 60, 2, 4)
    # The exact guide is in the conftest of this folder: each number has its mean and sd.
    drawn = exact_pair.draw(x[:2], 20_000).values["z"].double().flatten(1)
    assert bool(((found.nuts.mean - drawn.mean(0)).abs() < 4.5 * found.nuts.mean_error + 0.05).all())
    assert bool((found.khat == 0).all())


# -- chains that are not to be relied on -----------------------------------------------------------------------------


def two_modes(x):
    z = pyro.sample("z", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z.abs(), 0.5), obs=x)


def test_a_mode_that_the_guide_has_missed_is_told_by_chains_from_elsewhere():
    def guide(x):
        pyro.sample("z", dist.Normal(1.5, 0.2))

    x = torch.full((6,), 1.5, dtype=DOUBLE)
    found = reference(Pair(two_modes, guide, dtype=DOUBLE), x, num_samples=60, num_chains=4, warmup=60)
    means = found.draws["z"].mean(1)
    assert bool((means[::2] > 1).all()) and float(means.min()) < -1  # those at the guide's draws, and one elsewhere
    assert not found.trusted and "the chains do not agree" in found.warning
    assert "NOT TO BE TRUSTED as a reference" in repr(found) and "As far as it goes, the guide is OFF" in repr(found)
    assert found.to_dataframe().attrs["warning"] == found.warning


def test_few_draws_are_told():
    found = reference(Pair(LINES.model, LINES.guide(), dtype=DOUBLE), LINES.data, num_samples=20, warmup=20)
    assert not found.trusted and "(at least 400 are required)" in found.warning


def test_a_point_has_no_weights():
    pair = Pair(LINES.model, AutoDelta(LINES.model), dtype=DOUBLE)
    found = reference(pair, LINES.data, num_samples=8, warmup=8)
    assert found.weighted is None and "khat" not in found.to_dataframe()
    assert bool((found.guide.sd_ratio == 0).all()) and repr(found).endswith("no density to weigh draws by")


@pytest.mark.slow
def test_centred_eight_schools_diverge_and_non_centred_ones_do_not():
    centred = Pair(schools.centred, AutoMultivariateNormal(schools.centred), dtype=DOUBLE)
    found = reference(centred, schools.DATA, num_samples=300, warmup=200)
    assert int(found.diverging.sum()) > 0 and not found.trusted
    assert "transitions diverged" in repr(found) and "non-centred" in repr(found)

    pair = Pair(schools.non_centred, AutoMultivariateNormal(schools.non_centred), dtype=DOUBLE)
    found = reference(pair, schools.DATA, num_samples=700, warmup=400, target_accept=0.9)
    assert found.trusted
    for place, truth in enumerate(by_quadrature()):
        assert abs(float(found.nuts.mean[place]) - truth) < 4.5 * float(found.nuts.mean_error[place])


def by_quadrature() -> tuple[float, float]:
    """Posterior means of mu and tau: given tau all is normal."""
    tau = torch.linspace(1e-4, 300, 60_001, dtype=DOUBLE).unsqueeze(1)
    variance = schools.ERROR**2 + tau**2
    precision = 1 / 25 + (1 / variance).sum(1)
    mean = (schools.EFFECT / variance).sum(1) / precision
    log_p = -torch.log1p((tau[:, 0] / 5) ** 2) - variance.log().sum(1) / 2 - precision.log() / 2
    log_p = log_p - (schools.EFFECT**2 / variance).sum(1) / 2 + mean**2 * precision / 2
    weight = log_p.softmax(0)
    return float(weight @ mean), float(weight @ tau[:, 0])


# -- what is refused -------------------------------------------------------------------------------------------------


def drawn_classes(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(2.0 * c, 1.0), obs=x)


def guide_of_classes(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Bernoulli(torch.full((len(x),), 0.5)))


def test_discrete_latents_are_refused():
    with pytest.raises(ValueError, match=r"continuous latents are required, but 'c' are discrete; leave them out of"):
        reference(Pair(drawn_classes, guide_of_classes), torch.zeros(3))


def test_many_latents_are_refused_with_the_number_of_rows_that_may_be_given(exact_pair, x):
    with pytest.raises(
        ValueError, match=r"reference: at most 200 latent numbers are required, got 320.* give at most "
    ):
        reference(exact_pair, torch.cat([x, x]))
    with pytest.raises(ValueError, match=r"give at most 50 of the 80 rows, each of which has 4"):
        reference(exact_pair, torch.cat([x, x]))

    def wide(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(300), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"got 300.* look at the guide's weighted draws"):
        reference(Pair(wide, AutoNormal(wide)), torch.zeros(3))


def test_masked_latents_are_refused():
    def masked(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.arange(len(x)) < 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"a mask takes 'z' away in some, where the density is flat"):
        reference(Pair(masked, AutoNormal(masked)), torch.zeros(3))


def test_rows_without_what_is_observed_are_refused():
    with pytest.raises(ValueError, match=r"reference: rows with all that the model observes are required"):
        reference(LINES.fit(), {"x": LINES.x})
    pair = Pair(LINES.model, mean_field, dtype=DOUBLE).initialize(LINES.data)
    pair.template = pair.template.take(slice(0, 2))
    with pytest.raises(ValueError, match=r"reference: the rows that the pair was fitted to.* give them as data="):
        reference(pair)


@pytest.mark.parametrize("options", [{"num_chains": 1}, {"num_samples": 3}, {"warmup": 0}, {"target_accept": 1.0}])
def test_numbers_that_make_no_chain_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"reference: num_samples >= 4.*{name}={value}"):
        reference(Pair(LINES.model, mean_field, dtype=DOUBLE), LINES.data, **options)


def test_a_density_that_is_nowhere_finite_is_refused():
    def nowhere(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.factor("never", -torch.inf + 0 * z)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"a place where log p\(x, z\) and its gradient are finite is required"):
        reference(Pair(nowhere, guide), torch.zeros(2), num_samples=4, warmup=4)


# -- pure parts ------------------------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_scipy_s():
    x, y, weights = normal(50, 3), 1 + normal(70, 3, seed=1), normal(70, 3, seed=2).softmax(0)
    plain, weighted = wasserstein(x, y), wasserstein(x, y, weights)
    for d in range(3):
        assert float(plain[d]) == pytest.approx(wasserstein_distance(x[:, d], y[:, d]))
        assert float(weighted[d]) == pytest.approx(wasserstein_distance(x[:, d], y[:, d], None, weights[:, d]))
    torch.testing.assert_close(wasserstein(x, x + 2), torch.full((3,), 2.0, dtype=DOUBLE))


@pytest.mark.parametrize("numbers", [(400, 400), (1000, 150)])
def test_chance_is_left_in_one_of_a_hundred_cases(numbers):
    n, m = numbers
    x, y = normal(n, 2000), normal(m, 2000, seed=1)
    effective = torch.full((2000,), 1 / (1 / n + 1 / m), dtype=DOUBLE)
    rate = float((wasserstein(x, y) > chance_of(x, effective, seed=0)).double().mean())
    assert abs(rate - 0.01) < 4.5 * (0.01 * 0.99 / 2000) ** 0.5 + 0.003  # 0.003: the quantile is itself of 1000 bridges


def test_correlated_draws_make_chance_greater():
    """Chains AR(1) beside independent draws of the same law: called off by as few as the effective size allows."""
    steps, rho = normal(4, 1000, 100), 0.7
    chains = torch.empty_like(steps)
    chains[:, 0] = steps[:, 0]
    for t in range(1, 1000):
        chains[:, t] = rho * chains[:, t - 1] + (1 - rho**2) ** 0.5 * steps[:, t]
    found = ChainMoments.of(chains)
    expected = 4000 * (1 - rho) / (1 + rho)
    assert abs(float(found.ess_bulk.mean()) / expected - 1) < 0.1
    z = found.moments.mean / found.moments.mean_error
    assert abs(float(z.square().mean()) - 1) < 4.5 * (2 / 100) ** 0.5
    assert float(found.rhat.max()) < 1.02
    beside = Beside.of(normal(4000, 100, seed=9), None, found.moments, chains.flatten(0, 1), seed=0)
    assert int((beside.distance > beside.chance).sum()) <= 5 and not bool(beside.off.any())
    blind = Beside.of(normal(4000, 100, seed=9), None, Moments.of(chains.flatten(0, 1)), chains.flatten(0, 1), seed=0)
    assert int((blind.distance > blind.chance).sum()) > 10  # the twin, which takes draws of a chain for independent


def test_shifts_and_ratios_are_in_sds_of_the_reference():
    draws = 5 + 2 * normal(2, 1000, 3)
    chains, every = ChainMoments.of(draws), draws.flatten(0, 1)
    guide = every.clone()
    guide[:, 1] = 5 + 0.5 * (every[:, 1] - 5)
    guide[:, 2] += 2.0
    found = Beside.of(guide, None, chains.moments, every, seed=0)
    sd = every.std(0)
    torch.testing.assert_close(found.shift[[0, 2]], torch.stack([0 * sd[0], 2 / sd[2]]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.sd_ratio, torch.tensor([1.0, 0.5, 1.0], dtype=DOUBLE), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.distance[[0, 2]], torch.stack([0 * sd[0], 2 / sd[2]]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.quantile_shift[:, 2], (2 / sd[2]).expand(3), atol=1e-2, rtol=0)
    assert found.off.tolist() == [False, True, True]
    assert [found.reading(place) for place in range(2)] == ["", "sd 0.50 of NUTS's"]
    assert found.reading(2) == f"mean {2 / float(sd[2]):.2f} sds too high" and found.farthest()[0] == 2


def test_a_number_that_is_constant_is_not_judged():
    draws = normal(2, 100, 2)
    draws[..., 0] = 1.0  # as the first entry of a Cholesky factor of correlations
    chains = ChainMoments.of(draws)
    found = Beside.of(draws.flatten(0, 1), None, chains.moments, draws.flatten(0, 1), seed=0)
    assert found.off.tolist() == [False, False] and bool(found.distance[0].isnan())
