"""Laws of priors, over one table: a new prior is one entry."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from ppl_vae.flows import Chain, ElementwiseAffine, LULinear
from ppl_vae.models.priors import FlowPrior, MixtureOfNormals, Prior, StandardNormal

Z_MAX = 4.5

# name: makes it, for a latent size
PRIORS = {
    "standard normal": StandardNormal,
    "one component": lambda size: MixtureOfNormals(size, num_components=1),
    "flow": lambda size: FlowPrior(Chain([ElementwiseAffine(size), LULinear(size)])),
    "mixture": lambda size: MixtureOfNormals(size, num_components=5, spread=2.0),
}


@pytest.fixture(params=PRIORS)
def make(request):
    torch.manual_seed(0)
    return PRIORS[request.param]


def test_shapes(make):
    p_z = make(8)()
    assert p_z.batch_shape == ()
    assert p_z.event_shape == (8,)
    assert p_z.sample((3, 7)).shape == (3, 7, 8)
    assert p_z.expand([3, 7]).log_prob(torch.zeros(3, 7, 8)).shape == (3, 7)


def test_the_density_integrates_to_one(make):
    prior = make(2).double()
    grid = torch.linspace(-14, 14, 801, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    total = torch.trapezoid(torch.trapezoid(prior().log_prob(points).exp(), grid), grid)
    assert total.item() == pytest.approx(1, abs=1e-8)
    double = torch.trapezoid(torch.trapezoid((prior().log_prob(points) + 0.01).exp(), grid), grid)
    assert double.item() != pytest.approx(1, abs=1e-8)  # negative twin


def test_samples_have_the_density(make):
    """E[f(z)] over samples against quadrature, for f = z, z²."""
    torch.manual_seed(1)
    prior = make(1).double()
    grid = torch.linspace(-14, 14, 20_001, dtype=torch.float64)
    density = prior().log_prob(grid.unsqueeze(-1)).exp()
    draws = prior().sample((20_000,)).squeeze(-1)
    for f in (lambda z: z, lambda z: z**2):
        exact = torch.trapezoid(density * f(grid), grid)
        z = (f(draws).mean() - exact) / (f(draws).std() / len(draws) ** 0.5)
        assert abs(z.item()) < Z_MAX


def test_a_type_change_moves_everything(make):
    prior = make(3).double()
    assert prior().log_prob(torch.zeros(3, dtype=torch.float64)).dtype == torch.float64
    assert prior().sample().dtype == torch.float64


def test_gradients_reach_every_parameter(make):
    prior = make(3)
    points = torch.randn(11, 3, requires_grad=True)
    prior().log_prob(points).sum().backward()
    for name, parameter in prior.named_parameters():
        if name == "logits" and parameter.numel() == 1:
            continue  # the weight of a single component is 1 whatever its logit
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert points.grad is not None
    assert points.grad.abs().max() > 0


def test_the_standard_normal_has_nothing_to_save():
    assert not StandardNormal(8).state_dict()
    assert not list(StandardNormal(8).parameters())


def test_the_mixture_is_the_sum_over_its_components():
    torch.manual_seed(0)
    prior = MixtureOfNormals(3, num_components=4).double()
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_scale.normal_()
    z = torch.randn(11, 3, dtype=torch.float64)
    weights = prior.logits.softmax(0)
    densities = [
        dist.Normal(prior.loc[k], prior.log_scale[k].exp()).log_prob(z).sum(-1).exp() * weights[k] for k in range(4)
    ]
    torch.testing.assert_close(prior().log_prob(z), torch.stack(densities).sum(0).log(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StandardNormal(0), "StandardNormal: latent_dim must be at least 1, got 0"),
        (lambda: MixtureOfNormals(2, num_components=0), "latent_dim=2, num_components=0, spread=1.0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_base_defines_nothing():
    with pytest.raises(NotImplementedError, match=r"Prior: a prior must define forward\(\)"):
        Prior()()
