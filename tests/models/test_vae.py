"""The VAE as a plain Pyro model: densities, particles, enumeration, masks, errors."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from ppl_vae.models import VAE
from ppl_vae.models.likelihoods import Bernoulli, Categorical, DecodedNormal, PixelNormal
from ppl_vae.models.priors import MixtureOfNormals
from ppl_vae.nn import MLP, ConvDecoder

L, N = 4, 7

# name: (model, event shape of x)
MODELS = {
    "bernoulli": (lambda: VAE(MLP(L, 64), latent_dim=L, likelihood="bernoulli"), (64,)),
    "normal": (lambda: VAE(MLP(L, 5), latent_dim=L, likelihood="normal"), (5,)),
    "pixel-normal": (lambda: VAE(MLP(L, 5), latent_dim=L, likelihood=PixelNormal(5)), (5,)),
    "decoded-normal": (lambda: VAE(MLP(L, (5, 2)), latent_dim=L, likelihood="decoded-normal"), (5,)),
    "categorical": (lambda: VAE(MLP(L, (5, 3)), latent_dim=L, likelihood=Categorical(3)), (5,)),
    "mixture prior": (
        lambda: VAE(MLP(L, 5), latent_dim=L, likelihood="normal", prior=MixtureOfNormals(L, num_components=3)),
        (5,),
    ),
    "images": (lambda: VAE(ConvDecoder(L, (1, 8, 8)), latent_dim=L, likelihood="bernoulli"), (1, 8, 8)),
    "any module": (
        lambda: VAE(nn.Sequential(nn.Linear(L, 9), nn.BatchNorm1d(9)).eval(), latent_dim=L, likelihood="normal"),
        (9,),
    ),
}


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


@pytest.fixture(params=MODELS)
def case(request):
    torch.manual_seed(0)
    make, event = MODELS[request.param]
    model = make().double()
    return model, model(num_samples=N).detach(), event


def trace(model, x, z=None, **kwargs):
    conditioned = model if z is None else poutine.condition(model, data={"z": z})
    found = poutine.trace(conditioned).get_trace(x, **kwargs)
    found.compute_log_prob()
    return found


def test_sites_plate_and_shapes(case):
    model, x, event = case
    found = trace(model, x)
    assert found.nodes["z"]["value"].shape == (N, L)
    assert found.nodes["x"]["fn"].event_shape == event
    assert x.shape == (N, *event)
    for site in ("z", "x"):
        (frame,) = found.nodes[site]["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, N)
        assert found.nodes[site]["log_prob"].shape == (N,)
    assert found.nodes["x"]["is_observed"]
    assert not found.nodes["z"]["is_observed"]


def test_the_joint_is_prior_plus_likelihood(case):
    model, x, _ = case
    z = torch.randn(N, L, dtype=torch.float64)
    found = trace(model, x, z)
    torch.testing.assert_close(found.nodes["z"]["log_prob"], model.prior().log_prob(z), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.nodes["x"]["log_prob"], model.decode(z).log_prob(x), rtol=1e-10, atol=1e-10)


def test_a_batch_is_its_data_one_by_one(case):
    model, x, _ = case
    z = torch.randn(N, L, dtype=torch.float64)
    whole = trace(model, x, z).nodes["x"]["log_prob"]
    for n in range(N):
        one = trace(model, x[n : n + 1], z[n : n + 1]).nodes["x"]["log_prob"]
        torch.testing.assert_close(whole[n], one[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("leading", [(3,), (2, 1)])
def test_particles_are_separate_calls(case, leading):
    model, x, _event = case
    z = torch.randn(*leading, N, L, dtype=torch.float64)

    stack = [pyro.plate(f"p{i}", size, dim=i - len(leading) - 1) for i, size in enumerate(leading)]

    def plated(x):
        with stack[0]:
            if len(stack) == 1:
                return model(x)
            with stack[1]:
                return model(x)

    found = trace(plated, x, z)
    for site in ("z", "x"):
        assert found.nodes[site]["log_prob"].shape == (*leading, N)
        flat = found.nodes[site]["log_prob"].reshape(-1, N)
        for s, one in enumerate(z.reshape(-1, N, L)):
            expected = trace(model, x, one).nodes[site]["log_prob"]
            torch.testing.assert_close(flat[s], expected, rtol=1e-10, atol=1e-10)


def test_drawing_under_particles(case):
    model, _, event = case
    with pyro.plate("particles", 3, dim=-2):
        assert model(num_samples=N).shape == (3, N, *event)


def standard_guide(x=None, **_):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(L).double(), 1).to_event(1))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO])
def test_pyros_own_objectives_run_looped_and_vectorized(case, elbo):
    model, x, _ = case
    for vectorize in (False, True):
        options = {"num_particles": 3, "vectorize_particles": vectorize, "max_plate_nesting": 1}
        loss = elbo(**options, strict_enumeration_warning=False).loss(model, standard_guide, x)
        assert torch.isfinite(torch.tensor(loss))


def test_enumeration_to_the_left_of_the_data(case):
    """A discrete site outside the model broadcasts from the left; the decoder never sees it as data."""
    model, x, _event = case
    z = torch.randn(3, 1, N, L, dtype=torch.float64)
    p_x = model.decode(z)
    assert p_x.batch_shape == (3, 1, N)
    expected = torch.stack([model.decode(z[k, 0]).log_prob(x) for k in range(3)])
    torch.testing.assert_close(p_x.log_prob(x)[:, 0], expected, rtol=1e-10, atol=1e-10)


def test_observing_and_drawing_are_the_same_model(case):
    """A drawn (z, x) scores as the same (z, x) given."""
    model, _, _ = case
    drawn = poutine.trace(model).get_trace(num_samples=N)
    drawn.compute_log_prob()
    scored = trace(model, drawn.nodes["x"]["value"], drawn.nodes["z"]["value"])
    for site in ("z", "x"):
        torch.testing.assert_close(scored.nodes[site]["log_prob"], drawn.nodes[site]["log_prob"])


def test_a_mask_hides_entries_from_the_density_even_nan(case):
    model, x, _event = case
    torch.manual_seed(1)
    mask = torch.rand(x.shape) < 0.6
    z = torch.randn(N, L, dtype=torch.float64)
    found = trace(model, torch.where(mask, x, torch.nan), z, mask=mask)
    output = model.decode(z)
    entries = output.base_dist.log_prob(x) * mask
    torch.testing.assert_close(found.nodes["x"]["log_prob"], entries.flatten(1).sum(1), rtol=1e-10, atol=1e-10)
    everything = trace(model, x, z, mask=torch.ones_like(mask))
    torch.testing.assert_close(everything.nodes["x"]["log_prob"], output.log_prob(x), rtol=1e-10, atol=1e-10)


def test_gradients_under_a_mask_are_finite(case):
    model, x, _ = case
    mask = torch.rand(x.shape) < 0.6
    found = trace(model, torch.where(mask, x, torch.nan), torch.randn(N, L, dtype=torch.float64), mask=mask)
    found.log_prob_sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_labels_are_accepted_and_change_nothing(case):
    model, x, _ = case
    z = torch.randn(N, L, dtype=torch.float64)
    with_y = trace(model, x, z, y=torch.zeros(N)).nodes["x"]["log_prob"]
    assert torch.equal(with_y, trace(model, x, z).nodes["x"]["log_prob"])


def test_parameters_are_found_by_pyro(case):
    model, x, _ = case
    found = poutine.trace(model, param_only=True).get_trace(x)
    params = {site["value"] for site in found.nodes.values() if site["type"] == "param"}
    assert params == set(model.parameters())


def test_two_models_share_nothing():
    one, two = (VAE(MLP(L, 5), latent_dim=L, likelihood="normal") for _ in range(2))
    assert not set(one.parameters()) & set(two.parameters())


def test_pyros_predictive(case):
    model, _, event = case
    draws = Predictive(model, num_samples=3, parallel=False)(num_samples=N)
    assert draws["x"].shape == (3, N, *event)
    assert draws["z"].shape == (3, N, L)


def test_the_marginal_of_a_linear_model_is_exact():
    """z ~ N(0, I), x ~ N(W z + b, σ² I): moments of simulated x against b and W Wᵀ + σ² I."""
    torch.manual_seed(0)
    model = VAE(MLP(2, 3, hidden=()), latent_dim=2, likelihood="normal").double()
    (layer,) = model.decoder.layers
    with torch.no_grad():
        x = model(num_samples=40_000) - layer.bias
        covariance = layer.weight @ layer.weight.T + model.likelihood.scale**2 * torch.eye(3)
    products = x.unsqueeze(-1) * x.unsqueeze(-2)
    z = (products.mean(0) - covariance) / (products.std(0) / len(x) ** 0.5)
    assert z.abs().max() < 4.5
    z = (products.mean(0) - covariance + 0.1 * torch.eye(3)) / (products.std(0) / len(x) ** 0.5)
    assert z.abs().max() > 4.5  # negative twin: another noise


def make(decoder_out=5, **kwargs):
    return VAE(MLP(L, decoder_out), **{"latent_dim": L, "likelihood": "normal"} | kwargs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make()(), "VAE: x or num_samples is required, got neither"),
        (lambda: make()(torch.zeros(N, 5), num_samples=3), "VAE: num_samples must be 7, .*, got 3"),
        (
            lambda: make(63)(torch.zeros(100, 64)),
            r"VAE: the decoder must return \(..., 64\) for x of shape \(100, 64\), got \(100, 63\)",
        ),
        (
            lambda: make((63, 2), likelihood=DecodedNormal())(torch.zeros(100, 64)),
            r"VAE: the decoder must return \(..., 64, 2\) for x of shape \(100, 64\), got \(100, 63, 2\)",
        ),
        (
            lambda: make(64, likelihood=Bernoulli())(torch.zeros(100, 1, 8, 8)),
            r"VAE: the decoder must return \(..., 1, 8, 8\) for x of shape \(100, 1, 8, 8\), got \(100, 64\)",
        ),
        (
            lambda: make(likelihood=Categorical(3))(num_samples=2),
            r"Categorical: .* \(..., \*event, 3\), .* got \(5,\)",
        ),
        (lambda: make(latent_dim=3)(num_samples=2), r"MLP: the input must be \(..., 4\), got \(2, 3\)"),
        (
            lambda: make(prior=MixtureOfNormals(3, num_components=2)),
            r"VAE: the prior must have batch shape \(\) and event shape \(4,\), got \(\) and \(3,\)",
        ),
        (lambda: make(likelihood="poison"), "likelihood: the name must be one of bernoulli"),
        (
            lambda: make()(torch.zeros(N, 5), mask=torch.ones(N, 5)),
            "VAE: the mask must be boolean and .7, 5. as x is",
        ),
        (
            lambda: trace(make(likelihood="bernoulli"), torch.full((N, 5), 0.5)),
            "got 0.5 at row 0 of the 7",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_repr_says_what_it_is():
    text = repr(make())
    assert "latent_dim=4" in text
    assert "(likelihood): Normal()" in text
    assert "MLP(4 -> 128 -> 128 -> 5, SiLU)" in text
