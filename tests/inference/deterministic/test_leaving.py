"""Chains from a guide's draws: they stay where the guide is the posterior, and find what it misses."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch.distributions import Normal

from ppl_vae.inference.deterministic.leaving import chains
from ppl_vae.pair import Pair
from ppl_vae.pair.fixed_noise import FixedNoise


def standard() -> None:
    pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))


def of_scale(scale: float) -> FixedNoise:
    """A standard normal posterior in three dimensions (log Z = 0), and a guide with this sd."""
    pair = Pair(standard, AutoMultivariateNormal(standard, init_scale=scale), dtype=torch.float64)
    rows = pair.rows(None)
    pair.initialize(rows)
    noise = FixedNoise(pair, rows.batch())
    with torch.no_grad():
        for name, leaf in pair.parameters.leaves.items():
            if name.endswith("loc"):
                leaf.zero_()
    return noise


def test_where_the_guide_is_the_posterior_chains_differ_by_nothing_and_end_early():
    noise = of_scale(1.0)
    runs = counted(noise)
    log_ratio = chains(noise, 0.0, seed=0)
    assert float(log_ratio.abs().max()) < 1e-10
    assert len(runs) == 1 + 4 * 6


def test_what_leaves_is_followed_to_the_end():
    noise = of_scale(0.5)
    runs = counted(noise)
    assert len(chains(noise, 0.0, seed=0)) == 4 * 256
    assert len(runs) == 1 + 8 * 6


def test_many_data_have_fewer_chains_in_blocks(monkeypatch):
    noise = of_scale(1.0)
    monkeypatch.setattr(FixedNoise, "block", 10)
    runs = counted(noise)
    assert len(chains(noise, 0.0, seed=0)) == 2 * 64  # the second half of four trajectories
    assert max(runs) == 10


def test_a_wrong_log_z_shows():
    assert float((chains(of_scale(1.0), -3.0, seed=0) - 3.0).abs().max()) < 1e-10


@pytest.mark.parametrize("scale", [0.5, 0.7])
def test_chains_have_the_law_of_the_posterior_where_the_guide_is_too_narrow(scale):
    log_ratio = chains(of_scale(scale), 0.0, seed=0)
    z = torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = Normal(0.0, 1.0).log_prob(z).sum(-1) - Normal(0.0, scale).log_prob(z).sum(-1)
    for limit in (0.0, math.log(10)):
        share, truth = (float((v > limit).double().mean()) for v in (log_ratio, exact))
        # 256 chains, correlated over time: an error of 0.03 at most
        assert abs(share - truth) < 0.09, (limit, share, truth)


def test_places_without_a_density_are_never_entered():
    def half() -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        pyro.factor("positive", torch.where(z > 0, 0.0, -math.inf).to(z))

    pair = Pair(half, AutoMultivariateNormal(half, init_scale=0.1), dtype=torch.float64)
    rows = pair.rows(None)
    pair.initialize(rows)
    noise = FixedNoise(pair, rows.batch())
    with torch.no_grad():
        for name, leaf in pair.parameters.leaves.items():
            if name.endswith("loc"):
                leaf.fill_(1.0)
    log_ratio = chains(noise, math.log(0.5), seed=0)
    assert bool(log_ratio.isfinite().all())


def counted(noise: FixedNoise) -> list[int]:
    """The numbers of draws of each run from now on."""
    seen, run = [], noise.at_noise

    def at_noise(draws, *args):
        seen.append(len(draws))
        return run(draws, *args)

    noise.at_noise = at_noise  # type: ignore[method-assign]
    return seen
