"""Several starts climb at once: all modes of a known mixture are found, and the one with the most mass is taken."""

from __future__ import annotations

import math

import pytest
import torch
from test_curvature import Of
from torch import Tensor

from ppl_vae.inference.deterministic.beginning import begin
from ppl_vae.inference.deterministic.modes import climb

MEANS = torch.tensor([[0.0, 0.0], [8.0, 1.0], [-3.0, 9.0]], dtype=torch.float64)
SCALES = torch.tensor([[1.0, 0.5], [0.3, 2.0], [0.8, 0.8]], dtype=torch.float64)
SHARES = torch.tensor([0.55, 0.3, 0.15], dtype=torch.float64)


def mixture(u: Tensor) -> Tensor:
    """Three normals far from each other, of these masses."""
    z = (u.unsqueeze(1) - MEANS) / SCALES
    terms = SHARES.log() - SCALES.log().sum(-1) - 0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    return terms.logsumexp(1)


def starts(count: int, dim: int = 2, wide: float = 10.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return wide * (2 * torch.rand(count, dim, dtype=torch.float64, generator=generator) - 1)


def test_all_modes_are_found_with_their_normals():
    found = climb(Of(mixture), starts(40))
    assert found.arrived.all()
    which = (found.u.unsqueeze(1) - MEANS).norm(dim=-1).argmin(1)
    assert set(which.tolist()) == {0, 1, 2}
    torch.testing.assert_close(found.u, MEANS[which], rtol=0, atol=1e-3)
    covariance = found.factor @ found.factor.transpose(1, 2)
    torch.testing.assert_close(covariance, torch.diag_embed(SCALES[which].square()), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.log_mass, SHARES.log()[which], rtol=0, atol=1e-3)


def test_the_beginning_is_the_mode_with_the_most_mass():
    begun = begin(Of(mixture), starts(40))
    torch.testing.assert_close(begun.loc, MEANS[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(begun.precision, SCALES[0].square().reciprocal().diag(), rtol=1e-3, atol=1e-3)
    assert (begun.starts, begun.arrived, begun.modes, begun.escaped) == (40, 40, 3, 0)
    assert begun.elsewhere == pytest.approx(0.45, abs=1e-3)
    assert 0 < begun.agreed < 40


def test_one_mode_is_one_mode_whatever_the_units():
    """A regression's normal, its columns from 1e-4 to 1e4: Newton's method arrives in a step, and all agree."""
    units = torch.logspace(-4, 4, 5, dtype=torch.float64)
    root = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    precision = (root @ root.T + torch.eye(5).double()) * units * units.unsqueeze(1)
    at = torch.arange(5).double()
    density = Of(lambda u: -0.5 * ((u - at) @ precision * (u - at)).sum(-1))
    begun = begin(density, starts(16, 5, 2.0))
    assert (begun.agreed, begun.modes, begun.elsewhere) == (16, 1, 0.0)
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    torch.testing.assert_close(begun.loc / sd, at / sd, rtol=0, atol=1e-6)
    scale = precision.diagonal().rsqrt()
    torch.testing.assert_close(begun.precision * scale * scale.unsqueeze(1), precision * scale * scale.unsqueeze(1))


def test_a_saddle_is_left():
    """Two tops at (±1, 0), and all starts on the line between them but for a hair."""
    density = Of(lambda u: -((u[:, 0].square() - 1).square()) - u[:, 1].square())
    found = climb(density, torch.tensor([[1e-3, 2.0], [-1e-3, -1.0]], dtype=torch.float64))
    assert found.arrived.all()
    torch.testing.assert_close(found.u, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), rtol=0, atol=1e-3)


def test_starts_that_are_impossible_are_left_out_and_none_at_all_is_an_error():
    def half(u: Tensor) -> Tensor:
        return torch.where(u[:, 0] > 0, -0.5 * (u - 2).square().sum(-1), -torch.inf)

    begun = begin(Of(half), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(begun.loc, torch.full((2,), 2.0).double())
    with pytest.raises(ValueError, match=r"log p\(x, z\) is not finite at any of 2 starts"):
        begin(Of(half), -torch.ones(2, 2).double())


def test_with_many_latents_starts_climb_one_by_one():
    units = torch.logspace(-1, 1, 100, dtype=torch.float64)

    def density(u: Tensor) -> Tensor:
        return -0.5 * ((u - 1) * units).square().sum(-1)

    begun = begin(Of(density), starts(6, 100, 2.0))
    assert (begun.starts, begun.agreed, begun.modes) == (3, 3, 1)
    torch.testing.assert_close(begun.loc, torch.ones(100).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(begun.precision, units.square().diag(), rtol=1e-3, atol=1e-3)
