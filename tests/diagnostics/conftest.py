"""Pairs of this folder: one with dimensions known to be active or collapsed, one with a shared mean."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.pair import Pair

ACTIVE = torch.tensor([1.5, 0.0, 0.8, 0.0])  # weights of the four dimensions of z: two say nothing of x
NOISE = 0.6


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * ACTIVE.to(z), NOISE).to_event(1), obs=x)


def guide(x):
    """The exact posterior: dimensions are independent, and those without weight keep the prior."""
    weight = ACTIVE.to(x)
    precision = 1 + (weight / NOISE) ** 2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x * weight / NOISE**2 / precision, precision**-0.5).to_event(1))


def wide_guide(x):
    """The posterior with 1.5 times its sd."""
    weight = ACTIVE.to(x)
    precision = 1 + (weight / NOISE) ** 2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x * weight / NOISE**2 / precision, 1.5 * precision**-0.5).to_event(1))


@pytest.fixture(scope="session")
def x():
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 40, 4, generator=generator)
    return z * ACTIVE + NOISE * noise


@pytest.fixture
def local_pair():
    return Pair(model, wide_guide)


@pytest.fixture
def exact_pair():
    return Pair(model, guide)


@pytest.fixture
def global_pair():
    def shared_model(x):
        m = pyro.sample("m", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0).to_event(1), obs=x)

    def shared_guide(x):
        precision = 1.0 + len(x)
        pyro.sample("m", dist.Normal(x.sum(0) / precision, 1.1 * precision**-0.5).to_event(1))

    return Pair(shared_model, shared_guide)
