"""Draws of pairs that leave no room for a plate of draws: the law and the densities of draws one by one."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from ppl_vae import Pair
from ppl_vae.pair import mapped
from ppl_vae.pair.widening import draw_wider

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3
SIGMA = 4.5


def regression(x, y):
    """A matrix product: w has no axis for draws."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    s = pyro.sample("s", dist.LogNormal(torch.zeros(()), 0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, s), obs=y)


def own_guide(x, y):
    """A guide with a site that is not normal."""
    pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("s", dist.Gamma(torch.tensor(2.0), 2.0))


def made(guide):
    return Pair(regression, guide, dtype=torch.float64).initialize((X, Y))


def one_by_one(monkeypatch):
    monkeypatch.setattr(mapped, "_serves", lambda pair, batch: False)


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal])
def test_draws_are_scored_as_they_are_alone(kind):
    pair = made(kind(regression))
    assert not pair.vectorizes(pair.as_batch((X, Y)))
    draws = pair.draw((X, Y), 50, seed=1)
    alone = pair.log_joint((X, Y), {name: value[:7] for name, value in draws.values.items()})
    assert set(alone) == set(draws.log_p)
    for name, value in alone.items():
        assert draws.log_p[name][:7].shape == value.shape
        torch.testing.assert_close(draws.log_p[name][:7], value)


@pytest.mark.parametrize("width", [1.0, 1.5])
def test_their_law_and_log_q_are_those_of_draws_one_by_one(monkeypatch, width):
    pair = made(AutoMultivariateNormal(regression))
    many = draw_wider(pair, (X, Y), 4000, width, (1.0, 1.5), seed=2)
    one_by_one(monkeypatch)
    few = draw_wider(pair, (X, Y), 600, width, (1.0, 1.5), seed=3)
    assert many.log_q.shape == (2, 4000) and few.log_q.shape == (2, 600)
    for a, b in [
        (many.draws.log_weight, few.draws.log_weight),
        *zip(many.log_q, few.log_q, strict=True),
        (many.draws.values["w"][:, 0], few.draws.values["w"][:, 0]),
    ]:
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert abs(a.mean() - b.mean()) <= SIGMA * error
        assert float(a.std() / b.std()) == pytest.approx(1.0, abs=SIGMA / (2 * 600) ** 0.5 * 2)


def test_the_same_seed_gives_the_same_draws():
    pair = made(AutoNormal(regression))
    first, again = (pair.draw((X, Y), 10, seed=5).values["w"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, pair.draw((X, Y), 10, seed=6).values["w"])


def test_a_guide_that_is_not_normal_goes_one_by_one():
    pair = made(own_guide)
    with pair.evaluating(0):
        assert not mapped._serves(pair, pair.as_batch((X, Y)))
    assert pair.draw((X, Y), 5).values["s"].shape == (5,)


def test_a_wrong_density_is_seen(monkeypatch):
    """The check fails where the runs under vmap are others than alone."""
    pair, place = made(AutoNormal(regression)), mapped.Place
    calls = []

    class Wrong(place):
        def _pyro_sample(self, msg):
            super()._pyro_sample(msg)
            if msg["name"] == "y":
                calls.append(1)
                msg["fn"] = dist.Normal(msg["fn"].mean, 2.0)

    monkeypatch.setattr(mapped, "Place", Wrong)
    with pair.evaluating(0):
        assert not mapped._serves(pair, pair.as_batch((X, Y)))
    assert calls
