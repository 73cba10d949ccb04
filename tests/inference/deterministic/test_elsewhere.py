"""Places that the modes found so far do not explain."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from ppl_vae.inference.deterministic.beginning import begin
from ppl_vae.inference.deterministic.elsewhere import log_mixture, unexplained
from ppl_vae.inference.deterministic.modes import climb

LOCS = torch.tensor([[0.0, 0.0], [14.0, -9.0]], dtype=torch.float64)
SDS = torch.tensor([1.0, 0.4], dtype=torch.float64)
SHARES = torch.tensor([0.8, 0.2], dtype=torch.float64)


class Of:
    """A log density out of a function (S, D) -> (S,)."""

    def __init__(self, function: Callable[[Tensor], Tensor], block: int = 1000) -> None:
        self.at, self.block = function, block

    def heights(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return self.at(u)


def two(u: Tensor) -> Tensor:
    """Two normals far apart, 0.8 and 0.2 of the mass, times e^3."""
    parts = MultivariateNormal(LOCS, scale_tril=SDS[:, None, None] * torch.eye(2, dtype=torch.float64))
    return MixtureSameFamily(Categorical(SHARES), parts).log_prob(u) + 3.0


def first_only() -> tuple[Tensor, Tensor, Tensor]:
    """The first mode as one finds it: place, factor, log mass."""
    factor = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    return LOCS[:1], factor, SHARES[:1].log() + 3.0


def test_log_mixture_is_that_of_torch():
    factors = torch.tensor([[[2.0, 0.0], [0.5, 1.0]], [[0.3, 0.0], [-1.0, 4.0]]], dtype=torch.float64)
    u = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    known = MixtureSameFamily(Categorical(SHARES), MultivariateNormal(LOCS, scale_tril=factors)).log_prob(u)
    assert torch.allclose(log_mixture(u, LOCS, factors, SHARES.log() + 2.0), known + 2.0)


def test_a_normal_leaves_nothing_to_be_explained():
    density = Of(lambda u: Normal(0.0, 1.0).log_prob(u).sum(-1))
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    places = 10 * torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert len(unexplained(density, LOCS[:1], eye, torch.zeros(1), places, seed=0)) == 0


def test_places_nearer_to_another_mode_stand_out():
    places = 15 * torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = unexplained(Of(two), *first_only(), places, seed=0)
    assert 0 < len(found) <= 12
    z = (found - LOCS.unsqueeze(1)).square().sum(-1) / SDS.unsqueeze(1).square()
    assert bool((z[1] < z[0]).all())


def test_it_looks_around_a_mode_without_draws_of_the_prior():
    found = unexplained(Of(two), *first_only(), LOCS[:0], seed=0)
    ends = climb(Of(two), found)
    assert bool((ends.arrived & ((ends.u - LOCS[1]).norm(dim=-1) < 1e-3)).any())


@pytest.mark.parametrize("block", [1000, 100])
def test_a_place_that_breaks_the_run_hides_no_more_than_its_group(block):
    def breaks(u: Tensor) -> Tensor:
        if bool((u.norm(dim=-1) > 60).any()):
            raise torch.linalg.LinAlgError("no factor")
        return two(u)

    found = unexplained(Of(breaks, block), *first_only(), LOCS[:0], seed=0)
    assert len(found) and bool((found.norm(dim=-1) <= 60).all())


def test_many_data_have_few_places_looked_at():
    asked = []

    def counting(u: Tensor) -> Tensor:
        asked.append(len(u))
        return two(u)

    unexplained(Of(counting, block=4), *first_only(), LOCS.repeat(500, 1), seed=0)
    assert max(asked) <= 4 and sum(asked) <= 1 + 2 * 8 * 4


def test_a_mode_that_no_start_climbs_to_is_found_and_its_mass_known():
    starts = torch.tensor([[0.5, 0.1], [-1.0, 0.3]], dtype=torch.float64)
    assert begin_without_looking(starts).modes == 1
    beginning = begin(Of(two), starts, seed=0)
    assert beginning.modes == 2
    assert torch.allclose(beginning.loc, LOCS[0], atol=1e-4)
    assert math.isclose(beginning.elsewhere, 0.2, abs_tol=1e-6)
    assert beginning.starts > len(starts) and beginning.arrived == beginning.starts


def test_the_mode_with_the_most_mass_is_begun_at_though_all_starts_are_at_the_other():
    starts = torch.tensor([[14.1, -9.0], [14.0, -8.8]], dtype=torch.float64)
    beginning = begin(Of(two), starts, seed=0)
    assert torch.allclose(beginning.loc, LOCS[0], atol=1e-4)
    assert beginning.agreed == beginning.starts - 2


def test_with_many_latents_too():
    dim, far = 70, 6.0  # 50 standard deviations apart
    at = torch.stack([torch.zeros(dim), torch.full((dim,), far)]).double()

    def many(u: Tensor) -> Tensor:
        each = Normal(at, 1.0).log_prob(u.unsqueeze(1)).sum(-1)
        return (each + SHARES.log()).logsumexp(-1)

    noise = torch.randn(40, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    starts, places = noise[:3], 3 + 10 * noise
    beginning = begin(Of(many), starts, places=places)
    assert torch.allclose(beginning.loc, at[0], atol=1e-3)
    assert beginning.modes == 2 and math.isclose(beginning.elsewhere, 0.2, abs_tol=1e-3)


def begin_without_looking(starts: Tensor):
    """The same where there is nothing to be seen elsewhere: the density of the first mode alone."""
    return begin(Of(lambda u: Normal(0.0, 1.0).log_prob(u).sum(-1)), starts, seed=0)
