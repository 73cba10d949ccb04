"""AmortizedNormal as a plain Pyro guide, with an exact oracle: the posterior of a linear-Gaussian model."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from ppl_vae.guides import AmortizedNormal, Diagonal, FullCovariance
from ppl_vae.models import VAE
from ppl_vae.nn import MLP, ConvDecoder, ConvEncoder

L, N = 4, 7

# name: (guide, event shape of x)
GUIDES = {
    "diagonal": (lambda: AmortizedNormal(MLP(5, 8), latent_dim=L), (5,)),
    "full": (lambda: AmortizedNormal(MLP(5, 14), latent_dim=L, covariance=FullCovariance()), (5,)),
    "images": (lambda: AmortizedNormal(ConvEncoder((1, 8, 8), 8), latent_dim=L), (1, 8, 8)),
    "any module": (
        lambda: AmortizedNormal(nn.Sequential(nn.Flatten(), nn.Linear(6, 8)), latent_dim=L),
        (2, 3),
    ),
}


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


@pytest.fixture(params=GUIDES)
def case(request):
    torch.manual_seed(0)
    make, event = GUIDES[request.param]
    return make().double(), torch.randn(N, *event, dtype=torch.float64)


def trace(guide, x, **kwargs):
    found = poutine.trace(guide).get_trace(x, **kwargs)
    found.compute_log_prob()
    return found


def test_site_plate_and_shapes(case):
    guide, x = case
    found = trace(guide, x)
    site = found.nodes["z"]
    assert [name for name, node in found.nodes.items() if node["type"] == "sample"] == ["data", "z"]
    assert site["value"].shape == (N, L)
    assert site["log_prob"].shape == (N,)
    (frame,) = site["cond_indep_stack"]
    assert (frame.name, frame.dim, frame.size) == ("data", -1, N)
    assert site["fn"].has_rsample


def test_log_q_is_that_of_encode(case):
    guide, x = case
    site = trace(guide, x).nodes["z"]
    torch.testing.assert_close(site["log_prob"], guide.encode(x).log_prob(site["value"]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("particles", [1, 3])
def test_particles(case, particles):
    guide, x = case

    def plated(x):
        with pyro.plate("particles", particles, dim=-2):
            return guide(x)

    site = trace(plated, x).nodes["z"]
    assert site["value"].shape == (particles, N, L)
    assert site["log_prob"].shape == (particles, N)
    torch.testing.assert_close(site["log_prob"], guide.encode(x).log_prob(site["value"]), rtol=1e-10, atol=1e-10)
    assert particles == 1 or not torch.equal(site["value"][0], site["value"][1])


def test_each_row_is_encoded_on_its_own(case):
    guide, x = case
    whole = guide.encode(x)
    for n in range(N):
        one = guide.encode(x[n : n + 1])
        torch.testing.assert_close(whole.mean[n], one.mean[0], rtol=1e-10, atol=1e-10)


def test_unobserved_entries_do_not_matter_even_nan(case):
    guide, x = case
    mask = torch.rand(x.shape) < 0.6
    holes = torch.where(mask, x, torch.nan)
    assert torch.equal(guide.encode(holes, mask=mask).mean, guide.encode(torch.where(mask, x, 9.0), mask=mask).mean)
    assert trace(guide, holes, mask=mask).nodes["z"]["log_prob"].isfinite().all()
    with pytest.raises(ValueError, match="nan"):  # negative twin: without the mask the NaN goes through
        guide.encode(holes)


def test_parameters_are_found_by_pyro(case):
    guide, x = case
    found = poutine.trace(guide, param_only=True).get_trace(x)
    params = {site["value"] for site in found.nodes.values() if site["type"] == "param"}
    assert params == set(guide.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: AmortizedNormal(MLP(64, 8), latent_dim=8)(torch.zeros(100, 64)),
            r"^AmortizedNormal: the encoder must return \(\.\.\., 16\) for latent_dim=8, got \(100, 8\)$",
        ),
        (
            lambda: AmortizedNormal(MLP(64, 16), latent_dim=8, covariance=FullCovariance())(torch.zeros(100, 64)),
            r"must return \(\.\.\., 44\) for latent_dim=8, got \(100, 16\)",
        ),
        (
            lambda: AmortizedNormal(MLP(8, 16), latent_dim=8)(torch.zeros(100, 1, 8, 8)),
            r"must return \(\.\.\., 16\) for latent_dim=8, got \(100, 1, 8, 16\)",
        ),
        (
            lambda: AmortizedNormal(MLP(64, 16), latent_dim=8)(),
            r"AmortizedNormal: data x \(N, ...\) is required, got None",
        ),
        (lambda: AmortizedNormal(MLP(64, 16), latent_dim=0), "latent_dim must be at least 1, got 0"),
        (
            lambda: AmortizedNormal(MLP(64, 16), latent_dim=8)(torch.zeros(9, 64), mask=torch.ones(9).bool()),
            r"AmortizedNormal: the mask must be boolean and \(9, 64\) as x is, got \(9,\)",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def linear_pair(covariance):
    """A linear-Gaussian model and a guide that can hold its exact posterior."""
    torch.manual_seed(0)
    model = VAE(MLP(2, 5, hidden=()), latent_dim=2, likelihood="normal").double()
    encoder = MLP(5, covariance.num_outputs(2), hidden=())
    return model, AmortizedNormal(encoder, latent_dim=2, covariance=covariance).double()


def exact_posterior(model):
    """p(z | x) = N(S Wᵀ (x - b) / σ², S) with S = (I + Wᵀ W / σ²)⁻¹ (Tipping, Bishop 1999)."""
    (layer,) = model.decoder.layers
    weight, noise = layer.weight.detach(), model.likelihood.scale.detach() ** 2
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + weight.T @ weight / noise)
    return covariance @ weight.T / noise, layer.bias.detach(), covariance


def hold_exact_posterior(model, guide):
    gain, bias, covariance = exact_posterior(model)
    lower = torch.linalg.cholesky(covariance)
    (layer,) = guide.encoder.layers
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:2] = gain
        layer.bias[:2] = -gain @ bias
        layer.bias[2:4] = (lower.diagonal() - guide.covariance.min_scale).expm1().log()
        if len(layer.bias) == 5:
            layer.bias[4] = lower[1, 0]


def log_weights(model, guide, x, particles=50):
    def plated(fn):
        def run(x):
            with pyro.plate("particles", particles, dim=-2):
                return fn(x)

        return run

    q = trace(plated(guide), x)
    p = poutine.trace(poutine.replay(plated(model), q)).get_trace(x)
    p.compute_log_prob()
    return p.nodes["z"]["log_prob"] + p.nodes["x"]["log_prob"] - q.nodes["z"]["log_prob"]


def test_with_the_exact_posterior_every_weight_is_the_exact_evidence():
    model, guide = linear_pair(FullCovariance())
    hold_exact_posterior(model, guide)
    x = torch.randn(N, 5, dtype=torch.float64)
    (layer,) = model.decoder.layers
    marginal = torch.distributions.MultivariateNormal(
        layer.bias, layer.weight @ layer.weight.T + model.likelihood.scale**2 * torch.eye(5)
    )
    weights = log_weights(model, guide, x)
    torch.testing.assert_close(weights, marginal.log_prob(x).expand_as(weights), rtol=1e-10, atol=1e-10)
    loss = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x)
    assert loss == pytest.approx(-marginal.log_prob(x).sum().item(), abs=1e-9)


def test_another_posterior_has_weights_that_vary():
    """Negative twin: one correlation set to 0."""
    model, guide = linear_pair(FullCovariance())
    hold_exact_posterior(model, guide)
    with torch.no_grad():
        guide.encoder.layers[0].bias[4] = 0.0
    weights = log_weights(model, guide, torch.randn(N, 5, dtype=torch.float64))
    assert weights.std(0).min() > 1e-3


@pytest.mark.parametrize("covariance", [Diagonal(), FullCovariance()])
def test_pyros_svi_reaches_the_exact_posterior(covariance):
    model, guide = linear_pair(covariance)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    x = model(num_samples=50).detach()
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985}), elbo)
    for _ in range(300):
        svi.step(x)
    gain, bias, exact = exact_posterior(model)
    q_z = guide.encode(x)
    torch.testing.assert_close(q_z.mean.detach(), (x - bias) @ gain.T, rtol=0, atol=0.1)
    # The best diagonal has the precisions of the exact one on its diagonal (Blei et al. 2017).
    best = exact.diagonal() if isinstance(covariance, FullCovariance) else 1 / torch.linalg.inv(exact).diagonal()
    torch.testing.assert_close(q_z.variance.detach(), best.expand(50, 2), rtol=0.15, atol=0)


def test_convolutions_on_both_sides_under_vectorized_particles():
    torch.manual_seed(0)
    model = VAE(ConvDecoder(L, (1, 8, 8)), latent_dim=L, likelihood="bernoulli")
    guide = AmortizedNormal(ConvEncoder((1, 8, 8), 2 * L), latent_dim=L)
    x = (torch.rand(N, 1, 8, 8) < 0.3).float()
    elbo = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_the_digits_are_learned():
    """A short fit with Pyro's own SVI is above independent pixels (-24.6 nats on test rows)."""
    from ppl_vae.data import load_digits

    torch.manual_seed(0)
    data = load_digits(binary=True)
    model = VAE(MLP(8, 64, hidden=(64,)), latent_dim=8, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(64, 16, hidden=(64,)), latent_dim=8)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 5e-3}), Trace_ELBO())
    for _ in range(12):
        for rows in data.train[torch.randperm(1500)].split(100):
            svi.step(rows)
    elbo = -Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, data.test)
    assert elbo / len(data.test) > -22.5
