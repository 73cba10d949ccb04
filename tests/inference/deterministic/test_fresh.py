"""The ELBO on fresh draws: unbiased, with errors that cover."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import positive

from ppl_vae import Pair
from ppl_vae.inference.deterministic.fresh import fresh_elbo, plain_draws
from ppl_vae.pair.fixed_noise import FixedNoise

LOC, SCALE, COUNTS = (0.4, -0.2), (0.5, 0.3), (3.0, 1.0)


def model() -> None:
    """Two counts with log rates a, b: nothing about the ELBO is quadratic."""
    for name, count in zip("ab", COUNTS, strict=True):
        z = pyro.sample(name, dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample(f"y{name}", dist.Poisson(z.exp()), obs=torch.tensor(count))


def guide() -> None:
    for name, loc, scale in zip("ab", LOC, SCALE, strict=True):
        m = pyro.param(f"m{name}", lambda loc=loc: torch.tensor(loc))
        pyro.sample(name, dist.Normal(m, positive(f"s{name}", scale)))


def exact() -> float:
    """The ELBO in closed form: E exp(z) = exp(m + s²/2)."""
    total = 0.0
    for m, s, y in zip(LOC, SCALE, COUNTS, strict=True):
        likelihood = y * m - math.exp(m + s * s / 2) - math.lgamma(y + 1)
        prior = -0.5 * math.log(2 * math.pi) - 0.5 * (m * m + s * s)
        total += likelihood + prior + 0.5 * math.log(2 * math.pi * math.e) + math.log(s)
    return total


@pytest.fixture(scope="module")
def noise() -> FixedNoise:
    pair = Pair(model, guide, dtype=torch.float64).initialize(None)
    return FixedNoise(pair, pair.rows(None).batch())


def test_it_is_unbiased_and_its_error_covers(noise):
    """Over 300 seeds: no bias, and errors that are the spread of the values; two of them cover 9 of 10 at least."""
    found = [fresh_elbo(noise, seed=seed) for seed in range(300)]
    apart = np.array([fresh.value - exact() for fresh in found])
    error = np.array([fresh.error for fresh in found])
    assert abs(apart.mean()) < 4 * apart.std() / math.sqrt(len(apart))
    assert 0.85 < apart.std() / error.mean() < 1.15
    assert (np.abs(apart) < 2 * error).mean() > 0.9


def test_what_is_known_is_taken_out(noise):
    """Mirror images and second powers: the error is a tenth of that of as many plain draws."""
    fresh = fresh_elbo(noise, seed=0)
    assert fresh.log_weight.shape == (4096,)
    plain = float(fresh.log_weight.std()) / math.sqrt(4096)
    assert fresh.error < plain / 10
    _, log_weight = plain_draws(noise, 20_000, seed=1)
    assert abs(float(log_weight.mean()) - exact()) < 4 * float(log_weight.std()) / math.sqrt(20_000)


def test_more_draws_keep_those_before(noise):
    first = fresh_elbo(noise, seed=4)
    more = fresh_elbo(noise, seed=4, before=first)
    assert len(more.noise) == 4 * len(first.noise) == 8192
    assert torch.equal(more.noise[:2048], first.noise)
    assert torch.equal(more.log_weight[:2048], first.log_weight[:2048])
    assert torch.equal(more.log_weight[8192 : 8192 + 2048], first.log_weight[2048:])
    assert len(torch.unique(more.noise[:, 0])) == 8192
    torch.testing.assert_close(more.u[:8192] + more.u[8192:], torch.tensor(LOC).double().expand(8192, 2) * 2)
    assert 0.3 < more.error / first.error < 0.8
    assert abs(more.value - exact()) < 4 * more.error


def test_a_quadratic_is_known_without_error():
    """Up to rounding, since second powers of the noise explain all of it."""

    def normal() -> None:
        z = pyro.sample("a", dist.Normal(torch.zeros(2), torch.tensor([1.0, 3.0])).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(-1), 0.5), obs=torch.tensor(1.0))

    def of_it() -> None:
        m = pyro.param("m", lambda: torch.tensor([0.1, 0.5]))
        pyro.sample("a", dist.Normal(m, positive("s", torch.tensor([0.4, 0.7]))).to_event(1))

    pair = Pair(normal, of_it, dtype=torch.float64).initialize(None)
    fresh = fresh_elbo(FixedNoise(pair, pair.rows(None).batch()), seed=0)
    assert fresh.error < 1e-12
    prior = -math.log(2 * math.pi) - math.log(3.0) - 0.5 * (0.01 + 0.16 + (0.25 + 0.49) / 9)
    likelihood = -0.5 * math.log(2 * math.pi * 0.25) - 0.5 * (0.4**2 + 0.16 + 0.49) / 0.25
    entropy = math.log(2 * math.pi * math.e) + math.log(0.4 * 0.7)
    assert fresh.value == pytest.approx(prior + likelihood + entropy, rel=1e-12)


def test_where_a_draw_is_impossible_the_error_is_not_known():
    def positive_alone() -> None:
        z = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("inside", torch.where(z > 0, 0.0, -torch.inf))

    def wide() -> None:
        pyro.sample("a", dist.Normal(pyro.param("m", lambda: torch.tensor(0.3)), positive("s", 1.0)))

    pair = Pair(positive_alone, wide, dtype=torch.float64).initialize(None)
    fresh = fresh_elbo(FixedNoise(pair, pair.rows(None).batch()), seed=0)
    assert fresh.value == -math.inf
    assert math.isnan(fresh.error)
