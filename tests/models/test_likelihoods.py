"""Laws of likelihoods, over one table: a new likelihood is one entry."""

from __future__ import annotations

import inspect

import pyro
import pytest
import torch
from torch import nn

from ppl_vae.models import VAE, DiscreteVAE, MixtureVAE, SemiSupervisedVAE, likelihoods
from ppl_vae.models.likelihoods import (
    REGISTRY,
    Bernoulli,
    Categorical,
    DecodedNormal,
    Likelihood,
    Normal,
    PixelNormal,
    UnitNormal,
    make_likelihood,
)
from ppl_vae.nn import MLP

Z_MAX = 4.5
EVENT = (2, 3)
REAL = torch.linspace(-30, 30, 60_001, dtype=torch.float64)

# registered name: (makes it for events of shape EVENT, the points that carry all of an entry's probability)
LIKELIHOODS = {
    "bernoulli": (Bernoulli, torch.tensor([0.0, 1.0], dtype=torch.float64)),
    "categorical": (lambda: Categorical(17, step=1 / 16), torch.arange(17, dtype=torch.float64) / 16),
    "decoded-normal": (DecodedNormal, REAL),
    "normal": (lambda: Normal(scale=0.7), REAL),
    "pixel-normal": (lambda: PixelNormal(EVENT, scale=0.7), REAL),
    "unit-normal": (UnitNormal, REAL),
}


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request):
    return LIKELIHOODS[request.param][0]().double()


@pytest.fixture
def points(request):
    return LIKELIHOODS[request.node.callspec.params["likelihood"]][1]


def output_of_a_decoder(likelihood, *batch):
    per_entry = () if likelihood.num_params == 1 else (likelihood.num_params,)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*batch, *EVENT, *per_entry, generator=generator, dtype=torch.float64)


def test_every_registered_likelihood_is_in_the_table():
    assert set(REGISTRY) == set(LIKELIHOODS)
    classes = [c for c in vars(likelihoods).values() if inspect.isclass(c) and issubclass(c, Likelihood)]
    assert set(classes) - {Likelihood} == set(REGISTRY.values())


@pytest.mark.parametrize("batch", [(), (7,), (3, 7), (4, 1, 7)])
def test_shapes(likelihood, batch):
    output = output_of_a_decoder(likelihood, *batch)
    event_shape = likelihood.event_shape(output.shape[len(batch) :])
    p_x = likelihood.distribution(output, event_shape)
    assert event_shape == p_x.event_shape == EVENT
    assert p_x.batch_shape == batch
    assert p_x.mean.shape == p_x.sample().shape == (*batch, *EVENT)
    assert p_x.log_prob(p_x.sample()).dtype == torch.float64


def test_every_entry_has_probability_one_in_all(likelihood, points):
    entries = likelihood.entries(output_of_a_decoder(likelihood, 5))
    density = entries.log_prob(points.reshape(-1, 1, 1, 1).expand(-1, 5, *EVENT)).exp()
    total = density.sum(0) if len(points) < 100 else torch.trapezoid(density, points, dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


def test_the_mean_is_that_of_the_samples(likelihood):
    torch.manual_seed(0)
    output = output_of_a_decoder(likelihood, 5)
    p_x = likelihood.distribution(output, torch.Size(EVENT))
    draws = p_x.sample((20_000,))
    standard_error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - p_x.mean) / standard_error).abs().max() < Z_MAX
    assert ((draws.mean(0) - p_x.mean - 0.1) / standard_error).abs().max() > Z_MAX  # negative twin


def test_log_prob_is_the_sum_over_the_entries(likelihood):
    output = output_of_a_decoder(likelihood, 7)
    p_x = likelihood.distribution(output, torch.Size(EVENT))
    x = p_x.sample()
    entries = likelihood.entries(output).log_prob(x)
    torch.testing.assert_close(p_x.log_prob(x), entries.sum((-1, -2)), rtol=1e-10, atol=1e-10)


def test_a_mask_takes_entries_out_of_the_sum(likelihood):
    output = output_of_a_decoder(likelihood, 7)
    mask = torch.rand(7, *EVENT, generator=torch.Generator().manual_seed(1)) < 0.5
    x = likelihood.distribution(output, torch.Size(EVENT)).sample()
    masked = likelihood.distribution(output, torch.Size(EVENT), mask=mask)
    entries = likelihood.entries(output).log_prob(x)
    torch.testing.assert_close(masked.log_prob(x), (entries * mask).sum((-1, -2)), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(masked.log_prob(x), entries.sum((-1, -2)))  # negative twin: the mask matters
    filled = torch.where(mask, x, likelihood.filler)
    torch.testing.assert_close(masked.log_prob(filled), masked.log_prob(x), rtol=1e-10, atol=1e-10)


def test_a_mask_fits_under_particles(likelihood):
    output = output_of_a_decoder(likelihood, 3, 7)
    mask = torch.rand(7, *EVENT, generator=torch.Generator().manual_seed(1)) < 0.5
    masked = likelihood.distribution(output, torch.Size(EVENT), mask=mask)
    assert masked.batch_shape == (3, 7)
    x = likelihood.distribution(output[0], torch.Size(EVENT)).sample()
    for particle in range(3):
        one = likelihood.distribution(output[particle], torch.Size(EVENT), mask=mask)
        torch.testing.assert_close(masked.log_prob(x)[particle], one.log_prob(x), rtol=1e-10, atol=1e-10)


def test_gradients_reach_the_output_and_the_parameters(likelihood):
    output = output_of_a_decoder(likelihood, 7).requires_grad_()
    p_x = likelihood.distribution(output, torch.Size(EVENT))
    p_x.log_prob(p_x.sample().detach()).sum().backward()
    for tensor in (output, *likelihood.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_values_outside_the_support_are_refused(likelihood, points):
    output = output_of_a_decoder(likelihood, 7)
    outside = torch.full((7, *EVENT), torch.nan if points is REAL else 0.3, dtype=torch.float64)
    with pytest.raises(ValueError, match="to be within the support"):
        likelihood.distribution(output, torch.Size(EVENT)).log_prob(outside)


def test_the_learned_scale_is_a_parameter():
    assert Normal(scale=0.5).scale.item() == pytest.approx(0.5)
    assert [p.shape for p in PixelNormal(EVENT).parameters()] == [torch.Size(EVENT)]
    assert not list(UnitNormal().parameters())
    assert isinstance(Normal().log_scale, nn.Parameter)


def test_one_learned_scale_has_the_closed_form_optimum():
    """The maximum over σ is the root mean square of the residuals."""
    residual = torch.randn(100, *EVENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    likelihood = Normal(scale=residual.square().mean().sqrt().item()).double()
    likelihood.distribution(torch.zeros_like(residual), torch.Size(EVENT)).log_prob(residual).sum().backward()
    assert abs(likelihood.log_scale.grad.item()) < 1e-4  # of order 600 for σ wrong by a factor


def test_a_name_or_an_object():
    assert isinstance(make_likelihood("bernoulli"), Bernoulli)
    assert make_likelihood("categorical", num_levels=5).num_params == 5
    one = Normal()
    assert make_likelihood(one) is one


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: make_likelihood("bernouli"),
            ValueError,
            "the name must be one of bernoulli, .*, got 'bernouli'",
        ),
        (
            lambda: make_likelihood("categorical"),
            ValueError,
            r"give an object Categorical\(...\): .*num_levels",
        ),
        (lambda: make_likelihood(nn.ReLU()), TypeError, "a Likelihood is required, got ReLU"),
        (lambda: make_likelihood(Normal(), scale=1), TypeError, "got Normal with options scale"),
        (lambda: Categorical(1), ValueError, "num_levels >= 2 and step > 0 are required, got num_levels=1"),
        (lambda: Categorical(2, step=-1), ValueError, "got num_levels=2, step=-1"),
        (lambda: Normal(scale=0), ValueError, "Normal: scale must be positive, got 0"),
        (lambda: PixelNormal(3, scale=-1), ValueError, "PixelNormal: scale must be positive, got -1"),
        (lambda: DecodedNormal(min_scale=0), ValueError, "DecodedNormal: min_scale must be positive, got 0"),
        (
            lambda: Categorical(17).event_shape(torch.Size([64])),
            ValueError,
            r"Categorical: the decoder must return \(..., \*event, 17\), 17 numbers per entry, got \(64,\)",
        ),
        (
            lambda: PixelNormal((1, 8, 8)).event_shape(torch.Size([64])),
            ValueError,
            r"PixelNormal: the decoder must return \(..., 1, 8, 8\), got \(64,\) for one datum",
        ),
        (lambda: Likelihood().entries(torch.zeros(1)), NotImplementedError, "must define entries"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("likelihood", "wrong", "advice"),
    [
        (Bernoulli(), 200.0, "divide grey levels by their top"),
        (Bernoulli(), 0.5, "take likelihood='normal'"),
        (Categorical(17, step=1 / 16), 3.0, r"its levels are 0 \+ 0.0625 k for k = 0..16"),
    ],
)
@pytest.mark.parametrize("kind", ["vae", "mixture", "discrete", "labels"])
def test_an_impossible_entry_is_refused_by_place_and_value(kind, likelihood, wrong, advice):
    event = (4,) if likelihood.num_params == 1 else (4, likelihood.num_params)
    make = {
        "vae": lambda: VAE(MLP(2, event), latent_dim=2, likelihood=likelihood),
        "mixture": lambda: MixtureVAE(MLP(2, event), latent_dim=2, num_components=3, likelihood=likelihood),
        "discrete": lambda: DiscreteVAE(MLP(3, event), num_latents=1, num_classes=3, likelihood=likelihood),
        "labels": lambda: SemiSupervisedVAE(MLP(5, event), num_classes=3, latent_dim=2, likelihood=likelihood),
    }
    model, x = make[kind](), torch.ones(5, 4)
    x[3, 2] = wrong
    said = rf"VAE: x must have .* got {wrong:g} at row 3 of the 5 .*, column 2 .*{advice}"
    with pytest.raises(ValueError, match=said):
        model(x)
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[3, 2] = False
    model(x, mask=mask)  # what is masked out is no entry
    pyro.clear_param_store()
