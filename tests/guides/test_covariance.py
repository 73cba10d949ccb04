"""Laws of a guide's covariance, over one table: a new one is one entry."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.guides import Covariance, Diagonal, FullCovariance

Z_MAX = 4.5

# name: (the covariance, its number of outputs for 2 and 8 dimensions)
COVARIANCES = {
    "diagonal": (Diagonal(), 4, 16),
    "full": (FullCovariance(), 5, 44),
    "diagonal with a floor": (Diagonal(min_scale=0.1), 4, 16),
}


@pytest.fixture(params=COVARIANCES)
def covariance(request):
    return COVARIANCES[request.param][0]


def numbers_for(covariance, size, *batch):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*batch, covariance.num_outputs(size), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", COVARIANCES)
def test_number_of_outputs(name):
    covariance, two, eight = COVARIANCES[name]
    assert (covariance.num_outputs(2), covariance.num_outputs(8)) == (two, eight)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
def test_shapes(covariance, size, batch):
    q_z = covariance.distribution(numbers_for(covariance, size, *batch), size)
    assert q_z.batch_shape == batch
    assert q_z.event_shape == (size,)
    assert q_z.has_rsample
    assert q_z.rsample().dtype == torch.float64


def test_the_density_integrates_to_one(covariance):
    q_z = covariance.distribution(numbers_for(covariance, 2), 2)
    grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    total = torch.trapezoid(torch.trapezoid(q_z.log_prob(points).exp(), grid), grid)
    assert total.item() == pytest.approx(1, abs=1e-8)


def test_samples_have_the_covariance(covariance):
    torch.manual_seed(0)
    q_z = covariance.distribution(numbers_for(covariance, 3), 3)
    exact = getattr(q_z, "covariance_matrix", None)
    exact = torch.diag(q_z.variance) if exact is None else exact
    centred = q_z.sample((40_000,)) - q_z.mean
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    z = (products.mean(0) - exact) / (products.std(0) / len(centred) ** 0.5)
    assert z.abs().max() < Z_MAX
    assert ((products.mean(0) - 1.2 * exact) / (products.std(0) / len(centred) ** 0.5)).abs().max() > Z_MAX


@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_far_numbers_give_a_proper_distribution_and_finite_gradients(covariance, value):
    numbers = torch.full((5, covariance.num_outputs(3)), value, requires_grad=True)
    q_z = covariance.distribution(numbers, 3)
    assert (q_z.stddev >= 0.99 * covariance.min_scale).all()
    assert q_z.stddev.isfinite().all()
    q_z.entropy().sum().backward()
    assert numbers.grad is not None
    assert numbers.grad.isfinite().all()


def test_a_sample_depends_on_every_number(covariance):
    torch.manual_seed(0)
    numbers = numbers_for(covariance, 4, 7).requires_grad_()
    covariance.distribution(numbers, 4).rsample().square().sum().backward()
    assert (numbers.grad.abs() > 0).all()


def test_the_layout_of_the_full_covariance():
    """Means, diagonal, then the entries below it row by row."""
    numbers = torch.arange(1.0, 10.0, dtype=torch.float64)
    q_z = FullCovariance(min_scale=1e-6).distribution(numbers, 3)
    soft = 1e-6 + torch.nn.functional.softplus(numbers)
    expected = torch.tensor([[soft[3], 0, 0], [7, soft[4], 0], [8, 9, soft[5]]], dtype=torch.float64)
    torch.testing.assert_close(q_z.scale_tril, expected, rtol=1e-12, atol=0)
    assert torch.equal(q_z.loc, numbers[:3])


def test_without_correlations_the_two_agree():
    numbers = numbers_for(Diagonal(), 4, 7)
    full = torch.cat([numbers, numbers.new_zeros(7, 6)], -1)
    z = torch.randn(7, 4, dtype=torch.float64)
    one, two = (Diagonal().distribution(numbers, 4), FullCovariance().distribution(full, 4))
    torch.testing.assert_close(one.log_prob(z), two.log_prob(z), rtol=1e-10, atol=1e-10)


def test_they_are_values():
    assert Diagonal() == Diagonal()
    assert Diagonal() != Diagonal(min_scale=0.1)
    with pytest.raises(NotImplementedError, match="Covariance: a covariance must define num_outputs"):
        Covariance().num_outputs(3)
