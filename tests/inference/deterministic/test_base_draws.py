"""Fixed draws know the moments that a quadratic function asks for."""

from __future__ import annotations

import math

import pytest
import torch

from ppl_vae.inference.deterministic.base_draws import base_draws

SHAPES = [(2, 1), (64, 3), (256, 1), (256, 64), (6, 50), (256, 65), (4, 21202)]


@pytest.mark.parametrize(("count", "dim"), SHAPES)
def test_moments_are_exact(count, dim):
    """Odd ones always; all second ones where half of the draws are twice the numbers, else the variances."""
    draws = base_draws(count, dim, seed=3)
    assert draws.shape == (count, dim)
    assert draws.dtype == torch.float64
    assert draws.isfinite().all()
    assert draws.sum(0).abs().max() < 1e-10 * count
    assert (draws**3).sum(0).abs().max() < 1e-9 * count
    second = draws.square().mean(0)
    torch.testing.assert_close(second, torch.ones_like(second))
    if 2 * dim <= count // 2:
        torch.testing.assert_close(draws.T @ draws / count, torch.eye(dim, dtype=torch.float64))


def test_they_are_normal_and_spread_evenly():
    """Fourth powers and tail shares are near those of a normal, nearer than independent draws would be."""
    draws = torch.cat([base_draws(1024, 1, seed=seed) for seed in range(20)], 1)
    assert (draws**4).mean(0).sub(3).abs().median() < 0.1  # independent draws: 0.2
    share = (draws.abs() > 1.959964).double().mean(0)
    assert share.sub(0.05).abs().max() < 0.004  # independent draws: a standard deviation of 0.007
    assert draws.abs().max() < 6


def test_a_seed_says_which():
    one, same, other = (base_draws(64, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("count", [0, 1, 3, 257])
def test_odd_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"base_draws: an even number of draws is required, got {count}"):
        base_draws(count, 2, seed=0)


def test_the_average_of_a_quadratic_is_its_expectation():
    draws, matrix = base_draws(32, 4, seed=0), torch.randn(4, 4, dtype=torch.float64)
    average = torch.einsum("si,ij,sj->s", draws, matrix, draws).mean() + (draws @ matrix[0]).mean() + 2.5
    assert float(average) == pytest.approx(float(matrix.trace()) + 2.5, rel=1e-12)
    assert math.isfinite(float(average))
