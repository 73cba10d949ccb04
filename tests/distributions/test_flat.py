"""Flat priors: posteriors against closed forms and a grid; what needs a draw of the prior is refused by name."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal, init_to_mean, init_to_uniform
from torch.distributions import biject_to, constraints, transform_to
from torch.optim.lr_scheduler import ExponentialLR

from ppl_vae import Pair, VariationalEM
from ppl_vae.distributions import Flat, is_improper
from ppl_vae.evidence import NaiveMonteCarlo
from ppl_vae.training import EachStep

N = 40
X = 2.0 + 1.5 * torch.randn(N, generator=torch.Generator().manual_seed(1))
MEAN, SQUARES = float(X.mean()), float(((X - X.mean()) ** 2).sum())

SUPPORTS = {
    "real": (constraints.real, ()),
    "positive": (constraints.positive, ()),
    "interval": (constraints.interval(-1.0, 3.0), ()),
    "unit vector of real numbers": (constraints.real, (3,)),
    "simplex": (constraints.simplex, (3,)),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3)),
    "corr_cholesky": (constraints.corr_cholesky, (3, 3)),
    "positive_definite": (constraints.positive_definite, (2, 2)),
}


@pytest.mark.parametrize("name", SUPPORTS)
def test_the_density_is_one_and_starts_lie_inside(name):
    support, event = SUPPORTS[name]
    flat = Flat(support, event_shape=event).expand([4])
    value = flat.sample((5,))
    assert value.shape == (5, 4, *event)
    assert flat.log_prob(value).shape == (5, 4) and not flat.log_prob(value).any()
    assert support.check(value).all()
    transform = transform_to if name in ("lower_cholesky", "positive_definite") else biject_to
    u = transform(support).inv(value)
    assert u.abs().max() < 2.01 and u.std() > 0.5
    assert is_improper(flat.mask(True).to_event(1))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="a continuous support is required, got .*give classes a Categorical prior"):
        Flat(constraints.boolean)
    with pytest.raises(ValueError, match=r"event_shape=, such as \(3,\) for 3 shares; got \(\)"):
        Flat(constraints.simplex)
    for support in (constraints.symmetric, constraints.lower_triangular, constraints.square):
        with pytest.raises(ValueError, match=r"numbers without bounds can be carried is required \(real, .*\), got"):
            Flat(support, event_shape=(2, 2))
    with pytest.raises(ValueError, match="a value in the support"), pyro.validation_enabled():
        Flat(constraints.positive).log_prob(torch.tensor(-1.0))


def test_values_are_checked_under_vmap_too():
    """A model that multiplies ``x @ slope`` has no axis for draws, and is run so."""
    with pyro.validation_enabled():
        flat = Flat(constraints.positive, batch_shape=(2,))
        assert torch.equal(torch.vmap(flat.log_prob)(torch.ones(5, 2)), torch.zeros(5, 2))
        with pytest.raises(ValueError, match="a value in the support"):
            torch.vmap(flat.log_prob)(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))


MATRICES = {
    "positive_definite": Flat(constraints.positive_definite, event_shape=(2, 2)),
    "lower_cholesky": Flat(constraints.lower_cholesky, event_shape=(2, 2)),
    "Wishart": dist.Wishart(torch.tensor(9.0), torch.eye(2)),
    "corr_cholesky": Flat(constraints.corr_cholesky, event_shape=(2, 2)),
}


@pytest.mark.filterwarnings("ignore:Singular sample detected")
@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal, AutoDelta])
@pytest.mark.parametrize("name", MATRICES)
def test_a_support_without_a_bijection_is_named_with_its_site(name, guide):
    def of_a_matrix(x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        m = pyro.sample("m", MATRICES[name])
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, m[..., 0, 0].abs() + 1.0), obs=x)

    fitter = VariationalEM(of_a_matrix, guide(of_a_matrix))
    if name == "corr_cholesky" or guide is AutoDelta:
        assert fitter.fit(X, steps=2, progress=False).ended == "completed"
        return
    with pytest.raises(
        ValueError, match=rf"the latent 'm' lives on .*, and {guide.__name__} needs a bijection"
    ) as error:
        fitter.fit(X, steps=2, progress=False)
    assert "Trace Shapes" not in str(error.value) and "corr_cholesky factor" in str(error.value)


def model(x):
    """Mean and scale of a normal under flat priors: (mean | scale) and scale have closed forms."""
    mu = pyro.sample("mu", Flat(constraints.real))
    sigma = pyro.sample("sigma", Flat(constraints.positive))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, sigma), obs=x)


def grid():
    """Log p(sigma, x) with mu integrated out, on a grid: sigma^-(n-1) exp(-S / 2 sigma²) and constants."""
    sigma = torch.linspace(0.3, 6.0, 100001, dtype=torch.float64)
    log_p = -(N - 1) * sigma.log() - SQUARES / (2 * sigma**2)
    constant = -(N - 1) / 2 * math.log(2 * math.pi) - 0.5 * math.log(N)
    return sigma, log_p + constant


def fitted(guide, steps=250):
    slower = EachStep(partial(ExponentialLR, gamma=0.98))
    fit = VariationalEM(model, guide(model), lr=0.3, lr_scheduler=slower).fit(X, steps=steps, progress=False)
    return fit, {name: value.double() for name, value in fit.draw(X, 4000).values.items()}


def test_the_mode_under_flat_priors_is_that_of_the_likelihood():
    _, draws = fitted(AutoDelta)
    assert draws["mu"].mean().item() == pytest.approx(MEAN, abs=2e-3)
    assert draws["sigma"].mean().item() == pytest.approx(math.sqrt(SQUARES / N), abs=2e-3)


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_the_posterior_is_that_of_the_grid_and_the_integral_too(guide):
    fit, draws = fitted(guide)
    sigma, log_p = grid()
    p = (log_p - log_p.max()).exp()
    p = p / p.sum()
    mean, second = float((p * sigma).sum()), float((p * sigma**2).sum())
    spread = math.sqrt(second - mean**2)
    with pytest.warns(UserWarning, match="prior of 'mu', 'sigma' is improper"):
        evidence = fit.log_evidence(X)
    step = float(sigma[1] - sigma[0])
    exact = float(torch.logsumexp(log_p, 0)) + math.log(step)
    assert float(evidence.value) == pytest.approx(exact, abs=5 * float(evidence.standard_error) + 0.02)
    assert draws["mu"].mean().item() == pytest.approx(MEAN, abs=0.6 * math.sqrt(second / N))  # of a noisy optimum
    assert draws["mu"].std().item() == pytest.approx(math.sqrt(second / N), rel=0.25)
    assert draws["sigma"].mean().item() == pytest.approx(mean, abs=0.6 * spread)
    assert draws["sigma"].std().item() == pytest.approx(spread, rel=0.3)


def test_the_density_of_a_pair_counts_the_volume_of_its_transform_alone():
    pair = Pair(model, AutoNormal(model)).initialize(X)
    values = {"mu": torch.tensor([0.5, 1.0]), "sigma": torch.tensor([0.7, 2.0])}
    scored = pair.log_joint(X, values)
    assert not scored.prior.any()
    u, log_det = pair.unconstrain(X, values)
    torch.testing.assert_close(log_det, values["sigma"].log().double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(u["sigma"], values["sigma"].log().double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("start", [init_to_uniform, init_to_mean])
def test_every_way_to_a_start_finds_one(start):
    guide = AutoNormal(model, init_loc_fn=start)
    assert VariationalEM(model, guide).fit(X, steps=2, progress=False).ended == "completed"


def test_what_needs_draws_of_the_prior_is_refused_by_name():
    fit, _ = fitted(AutoNormal, steps=5)
    refused = "draws from the prior are required, and the prior of 'mu', 'sigma' is improper"
    for what, ask in {
        "simulate": lambda: fit.pair.simulate(3),
        "draw_prior": lambda: fit.draw_prior(X, 3),
        "to_inference_data: prior": lambda: fit.to_inference_data(X, num_samples=5, groups=["prior"]),
    }.items():
        with pytest.raises(ValueError, match=f"^{what}: {refused}"):
            ask()
    with pytest.warns(UserWarning, match="improper"), pytest.raises(ValueError, match=refused):
        fit.log_evidence(X, NaiveMonteCarlo(10))


def test_given_values_stand_for_draws_and_arviz_gets_what_there_is():
    fit, _ = fitted(AutoNormal, steps=5)
    found = fit.pair.simulate(3, latents={"mu": torch.tensor(1.0), "sigma": torch.tensor(0.1)})
    assert found["x"].shape == (3,) and (found["x"] - 1.0).abs().max() < 1.0
    idata = fit.to_inference_data(X, num_samples=5)
    assert "posterior" in idata and "posterior_predictive" in idata and "prior" not in idata
