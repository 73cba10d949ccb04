"""Reverse KL: densities up to a constant, fitted by flows; log Z against closed forms and quadrature."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import constraints

import ppl_vae
from ppl_vae import ELBO, IWAE, ImportanceWeighted, Pair, VariationalEM, log_evidence
from ppl_vae.flows import (
    Abs,
    AffineCoupling,
    Augment,
    Bounded,
    Chain,
    ConditionalNormal,
    ElementwiseAffine,
    LULinear,
    Reverse,
)
from ppl_vae.guides import FlowPosterior
from ppl_vae.models import Energy
from ppl_vae.models.priors import MixtureOfNormals

DOUBLE, Z_MAX = torch.float64, 4.5
MEAN = torch.tensor([0.4, -0.7], dtype=DOUBLE)
COVARIANCE = torch.tensor([[1.2, 0.6], [0.6, 0.9]], dtype=DOUBLE)


def gaussian(z: Tensor) -> Tensor:
    """exp(-(z - m)' S^-1 (z - m) / 2): log Z = log(2 pi) + log det S / 2."""
    off = z - MEAN.to(z)
    return -0.5 * (off @ COVARIANCE.inverse().to(z) * off).sum(-1)


LOG_Z = math.log(2 * math.pi) + 0.5 * float(torch.logdet(COVARIANCE))


def optimum() -> Chain:
    """The linear flow that is that normal: x = m + L eps, so LU = L^-1 with a diagonal L of L^-1."""
    inverse = torch.linalg.cholesky(COVARIANCE).inverse()
    flow = LULinear(2).double()
    with torch.no_grad():
        flow.log_diagonal.copy_(inverse.diagonal().log())
        flow.entries.copy_((inverse / inverse.diagonal()).tril(-1))
        flow.bias.copy_(-inverse @ MEAN)
    return Chain([flow])


def wave(z: Tensor) -> Tensor:
    """U2 of Rezende and Mohamed (2015)."""
    return -0.5 * ((z[..., 1] - (0.5 * math.pi * z[..., 0]).sin()) / 0.4).square()


BOX = Bounded([-4.0, -math.inf], [4.0, math.inf])
LOG_Z_WAVE = 2.08208934


def test_at_the_optimum_every_weight_is_z():
    pair = Pair(Energy(gaussian, shape=2), FlowPosterior(optimum()))
    found = log_evidence(pair, None, ImportanceWeighted(200))
    assert found.value.item() == pytest.approx(LOG_Z, abs=1e-10)
    assert found.standard_error.item() == 0 and found.khat.item() == 0
    with pyro.get_param_store().scope():
        loss = Trace_ELBO().loss(pair.model, pair.guide)
    assert loss == pytest.approx(-LOG_Z, abs=1e-10)


def test_the_twin_a_forgotten_volume_is_seen(monkeypatch):
    pair = Pair(Energy(gaussian, shape=2), FlowPosterior(optimum()))
    decode = LULinear._decode
    monkeypatch.setattr(LULinear, "_decode", lambda self, z, c: (decode(self, z, c)[0], 0 * decode(self, z, c)[1]))
    found = log_evidence(pair, None, ImportanceWeighted(200)).value.item()
    assert found - LOG_Z == pytest.approx(0.5 * float(torch.logdet(COVARIANCE)) * -1, abs=1e-10)


@pytest.mark.parametrize("objective", [ELBO(num_particles=64), IWAE(64, gradient="stl")], ids=["ELBO", "IWAE, stl"])
def test_a_linear_flow_finds_a_normal(objective):
    flow = Chain([LULinear(2), ElementwiseAffine(2)])
    fit = VariationalEM(
        Energy(gaussian, shape=2), FlowPosterior(flow), objective=objective, lr=3e-2, compile=False
    ).fit(None, steps=250, progress=False)
    assert set(fit.parameters.group.values()) == {"phi"}
    evidence = fit.log_evidence(None, ImportanceWeighted(2000))
    assert evidence.khat.item() < 0.7
    assert abs(evidence.value.item() - LOG_Z) < Z_MAX * evidence.standard_error.item() + 1e-5
    assert LOG_Z - 0.01 < fit.elbo(None, num_samples=2000).item() < LOG_Z + 1e-3


def test_a_flow_in_a_box_fits_the_wave(tmp_path):
    torch.manual_seed(0)
    couplings = [layer for _ in range(4) for layer in (AffineCoupling(2, hidden=(24, 24)), Reverse(2))]
    model, guide = Energy(wave, shape=2, support=BOX.domain), FlowPosterior(Chain([BOX, *couplings]))
    em = VariationalEM(model, guide, objective=ELBO(num_particles=128), lr=4e-3, compile=False)
    fit = em.fit(None, steps=500, progress=False)
    evidence = fit.log_evidence(None, ImportanceWeighted(4000))
    draws = fit.draw(None, 4000)
    assert evidence.khat.item() < 0.7
    assert abs(evidence.value.item() - LOG_Z_WAVE) < Z_MAX * evidence.standard_error.item()
    assert bool(BOX.domain.check(draws.values["z"]).all())
    elbo = draws.log_weight
    error = elbo.std().item() / math.sqrt(len(elbo))
    assert LOG_Z_WAVE - 0.15 < elbo.mean().item() < LOG_Z_WAVE + Z_MAX * error
    fit.save(tmp_path / "wave")
    loaded = ppl_vae.load(tmp_path / "wave", model, guide)
    assert torch.equal(loaded.draw(None, 3).log_weight, fit.draw(None, 3).log_weight)


def test_a_plain_model_with_factors_is_fitted_too():
    """A latent with a prior, a factor and data: a conjugate normal mean, whose evidence is known."""
    x = torch.tensor([1.2, 0.4, 2.0, 0.9], dtype=DOUBLE)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(1), 2.0).to_event(1))
        pyro.factor("likelihood", dist.Normal(mu, 1.0).log_prob(x).sum(-1))

    guide = FlowPosterior(ElementwiseAffine(1).double(), site="mu")
    precision = 0.25 + len(x)
    with torch.no_grad():  # eps = (mu - m) / s
        guide.flow.numbers.base.copy_(torch.tensor([-x.sum() / precision**0.5, 0.5 * math.log(precision)]))
    exact = dist.MultivariateNormal(torch.zeros(4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE) + 4.0).log_prob(x)
    pair = Pair(lambda: model(x), guide, dtype=DOUBLE)
    found = log_evidence(pair, None, ImportanceWeighted(100))
    assert found.value.item() == pytest.approx(exact.item(), abs=1e-6)


def test_outside_the_support_the_density_is_zero():
    model = Energy(lambda z: -z.sum(-1), shape=2, support=constraints.nonnegative)
    z = torch.tensor([[1.0, 2.0], [-1.0, 2.0]])
    assert model.log_prob(z).tolist() == [-3.0, -math.inf]
    whole = Pair(model, FlowPosterior(ElementwiseAffine(2)))
    assert bool(whole.draw(None, 200).log_weight.isinf().any())


def test_another_guide_serves():
    """An energy is a plain Pyro model: with a proper start, an autoguide fits it."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        pyro.factor("energy", gaussian(z) - dist.Normal(0.0, 10.0).log_prob(z).sum(-1))

    fit = ppl_vae.fit(model, AutoNormal(model), None, steps=5)
    assert math.isfinite(fit.elbo(None).item())


def test_a_z_that_no_guide_has_drawn_is_said_so():
    model = Energy(gaussian, shape=2)
    fit = VariationalEM(model, FlowPosterior(LULinear(2))).fit(None, steps=1, progress=False)
    prior = "draws from the prior are required|z must come from a guide"
    for call in (lambda: fit.to_inference_data(None, num_samples=4, groups=("prior",)), lambda: fit.simulate(3)):
        with pytest.raises(ValueError, match=prior):
            call()
    for call in (lambda: model(None), lambda: Pair(model, FlowPosterior(LULinear(2), site="w")).draw(None, 1)):
        with pytest.raises(ValueError, match="Energy: z must come from a guide with a site of that name"):
            call()
    found = fit.to_inference_data(None, num_samples=4, groups=("posterior", "sample_stats"))
    assert found["posterior"]["z"].shape == (1, 4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Energy(lambda z: z, shape=2).log_prob(torch.zeros(5, 2)),
            r"must map \(5, 2\) to \(5,\), got \(5, 2\)",
        ),
        (lambda: Energy(gaussian, shape=0), "Energy: every size of an event must be at least 1"),
        (lambda: FlowPosterior(Augment(2, 1, noise=ConditionalNormal(2, 1))), "FlowPosterior: an exact flow"),
        (lambda: FlowPosterior(Abs(2, sign=torch.nn.Linear(2, 2))), "FlowPosterior: a base and a flow that let"),
        (lambda: FlowPosterior(AffineCoupling(2, context_dim=1)), "an unconditional flow is required"),
        (lambda: FlowPosterior(LULinear(2), base=MixtureOfNormals(3, num_components=2)), r"event shape \(2,\)"),
        (lambda: FlowPosterior(LULinear(2), base=MixtureOfNormals(2, num_components=2)), "got MixtureSameFamily"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
