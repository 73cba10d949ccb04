"""The toy densities: entropies derived anew by quadrature, draws that come from the density, symmetries."""

from __future__ import annotations

import math

import pytest
import torch

from ppl_vae.data import TOYS, EightGaussians, FourCircles

TOY = {toy.name: toy for toy in TOYS}
FLOORS = {"checkerboard": 3.465736, "corners": 2.947005, "eight Gaussians": 2.831880, "four circles": 2.870819}


def grid(cells: int, half_width: float = 6.0) -> tuple[torch.Tensor, float]:
    """Midpoints of the cells of a square around 0, and the area of one."""
    side = 2 * half_width / cells
    line = (torch.arange(cells, dtype=torch.float64) + 0.5) * side - half_width
    return torch.cartesian_prod(line, line), side**2


def quadrature(toy, cells: int = 1200) -> tuple[float, float]:
    """The mass of π, and -∫ π log π; 1200 cells meet every edge of the squares and corners."""
    points, area = grid(cells)
    log_p = toy.log_prob(points)
    mass = log_p.exp() * area
    return mass.sum().item(), -(mass * log_p.clamp(min=-1e3)).sum().item()


@pytest.mark.parametrize("name", TOY)
def test_density_has_mass_one_and_the_stated_entropy(name):
    mass, entropy = quadrature(TOY[name])
    assert mass == pytest.approx(1, abs=1e-9)
    assert entropy == pytest.approx(TOY[name].entropy, abs=1e-6)
    assert TOY[name].entropy == pytest.approx(FLOORS[name], abs=1e-6)


def z_scores(toy, x: torch.Tensor, cells: int = 24) -> torch.Tensor:
    """How many draws fell into each cell of a grid, against the mass that the density has there."""
    points, area = grid(20 * cells)
    mass = (toy.log_prob(points).exp() * area).reshape(cells, 20, cells, 20).sum((1, 3)).flatten()
    place = ((x + 6) / 12 * cells).floor().long()
    counts = torch.bincount(place[:, 0] * cells + place[:, 1], minlength=cells**2)
    expected = len(x) * mass
    usual = expected > 25
    return ((counts - expected) / (expected * (1 - mass)).sqrt())[usual]


@pytest.mark.parametrize("name", TOY)
def test_draws_come_from_the_density(name):
    toy, generator = TOY[name], torch.Generator().manual_seed(0)
    x = toy.draw(100_000, generator)
    assert x.shape == (100_000, 2)
    assert toy.log_prob(x).isfinite().all()
    assert z_scores(toy, x).abs().max() < 4.5
    surprise = -toy.log_prob(x) - toy.entropy
    assert abs(surprise.mean()) <= 4.5 * surprise.std() / len(x) ** 0.5 + 1e-9
    # The twin: draws a little too wide are seen.
    assert z_scores(toy, 1.02 * x).abs().max() > 4.5


@pytest.mark.parametrize("name", TOY)
def test_rows_are_a_function_of_the_seed_and_stay_inside_in_float32(name):
    data, again = (TOY[name].load(num_train=50_000, num_test=100, seed=1) for _ in range(2))
    assert data.train.dtype == torch.float32
    assert torch.equal(data.train, again.train)
    assert torch.equal(data.test, again.test)
    assert not torch.equal(data.train[:100], data.test)
    assert not torch.equal(data.train, TOY[name].load(num_train=50_000, num_test=100, seed=2).train)
    assert TOY[name].log_prob(data.train).isfinite().all()


@pytest.mark.parametrize("name", ["corners", "eight Gaussians", "four circles"])
def test_three_are_symmetric(name):
    x = 3 * torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sign in ([-1.0, 1.0], [1.0, -1.0]):
        torch.testing.assert_close(TOY[name].log_prob(x * torch.tensor(sign)), TOY[name].log_prob(x))


def test_the_checkerboard_is_antisymmetric_and_the_rest_of_the_plane_is_empty():
    points, _ = grid(80, 4.0)
    black, mirrored = (TOY["checkerboard"].log_prob(points * torch.tensor([sign, 1.0])).isfinite() for sign in (1, -1))
    assert (black ^ mirrored).all()
    assert TOY["checkerboard"].log_prob(torch.tensor([[4.1, 2.5], [-5.0, 1.0]])).tolist() == [-math.inf] * 2


def test_the_circles_do_not_overflow_far_out():
    x = torch.tensor([[40.0, 0.0], [0.0, 0.0]])
    assert FourCircles().log_prob(x).isfinite().all()
    assert EightGaussians().log_prob(x).isfinite().all()
