"""Baselines against the densities that they are, written out by hand."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, bijection, data_for, flow_pair
from sklearn.covariance import LedoitWolf

from ppl_vae import Pair
from ppl_vae.diagnostics import baselines
from ppl_vae.distributions.levels import CategoricalLevels
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP

GENERATOR = torch.Generator().manual_seed(0)
TRAIN, TEST = (torch.rand(n, 3, generator=GENERATOR, dtype=torch.float64) for n in (50, 20))


def pair_with(make) -> Pair:
    """A pair whose x has the distribution that ``make`` makes of a z."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0)).unsqueeze(-1)
            pyro.sample("x", make(z).expand([*z.shape[:-1], 3]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) * 0.0, 1.0))

    return Pair(model, guide, dtype=torch.float64)


def test_zeros_and_ones():
    train, test = (TRAIN > 0.7).double(), (TEST > 0.7).double()
    (found,) = baselines(pair_with(lambda z: dist.Bernoulli(logits=z)), train, test, columns="pixels")
    p = (train.sum(0) + 0.5) / 51
    assert found.name == "independent pixels"
    torch.testing.assert_close(found.value, (test * p.log() + (1 - test) * (1 - p).log()).sum(1))


def test_classes_and_levels():
    train, test = (TRAIN * 4).floor(), (TEST * 4).floor()
    train[train == 3] = 0  # a class that training has never seen has a probability all the same
    counts = torch.stack([(train == k).sum(0) for k in range(4)]).double()
    expected = (((counts + 0.5) / 52).log().gather(0, test.long())).sum(1)
    logits = torch.zeros(4, dtype=torch.float64)
    (found,) = baselines(
        pair_with(lambda z: CategoricalLevels(logits + 0 * z.unsqueeze(-1), step=0.25)), train / 4, test / 4
    )
    torch.testing.assert_close(found.value, expected)
    (found,) = baselines(pair_with(lambda z: dist.Categorical(logits=logits + 0 * z.unsqueeze(-1))), train, test)
    torch.testing.assert_close(found.value, expected)


def test_counts():
    train, test = (TRAIN * 9).floor(), (TEST * 9).floor()
    (found,) = baselines(pair_with(lambda z: dist.Poisson(z.exp())), train, test)
    rate = (train.sum(0) + 0.5) / 50.5
    torch.testing.assert_close(found.value, dist.Poisson(rate).log_prob(test).sum(1))


def test_numbers():
    mixed = torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 0.5], [0.0, 0.0, 9.0]], dtype=torch.float64)
    train, test = TRAIN @ mixed, TEST @ mixed
    independent, full = baselines(pair_with(lambda z: dist.Normal(z, 1.0)), train, test)
    torch.testing.assert_close(independent.value, dist.Normal(train.mean(0), train.std(0)).log_prob(test).sum(1))
    mean, spread = train.mean(0), train.std(0)
    shrunk = LedoitWolf(assume_centered=True).fit(((train - mean) / spread).numpy()).covariance_
    covariance = torch.from_numpy(shrunk) * spread.unsqueeze(0) * spread.unsqueeze(1)
    torch.testing.assert_close(full.value, dist.MultivariateNormal(mean, covariance).log_prob(test))
    assert float(full.value.mean()) > float(independent.value.mean())


def test_the_full_normal_comes_to_the_truth():
    """Of many rows of a normal its score is the negative entropy."""
    mix = torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64)
    train, test = (torch.randn(8000, 3, generator=GENERATOR, dtype=torch.float64) @ mix for _ in range(2))
    found = baselines(pair_with(lambda z: dist.Normal(z, 1.0)), train, test)[1].value
    entropy = 1.5 * (1 + math.log(2 * math.pi)) + float(mix.det().abs().log())
    assert abs(float(found.mean()) + entropy) < 4.5 * float(found.std()) / 8000**0.5 + 9 / 8000


def test_a_flow_is_compared_as_a_density_is():
    found = baselines(Pair(*flow_pair(bijection()), dtype=torch.float64), TRAIN, TEST)
    assert [b.name for b in found] == ["independent columns", "a normal with full covariance"]


def normal(z):
    return dist.Normal(z, 1.0)


NOTHING = {
    "a column that never changes": lambda: baselines(pair_with(normal), TRAIN * torch.tensor([1.0, 0.0, 1.0])),
    "whole numbers under a density": lambda: baselines(pair_with(normal), (9 * TRAIN).round()),
    "one row": lambda: baselines(pair_with(normal), TRAIN[:1]),
    "a mask": lambda: baselines(
        Pair(VAE(MLP(2, 3), latent_dim=2, likelihood="normal"), AmortizedNormal(MLP(3, 4), latent_dim=2)),
        {"x": TRAIN.float(), "mask": TRAIN > 0.2},
    ),
    "latents of all data": lambda: baselines(Pair(*CASES["AutoNormal"].make()), data_for(CASES["AutoNormal"])),
    "counts of an unknown kind": lambda: baselines(pair_with(lambda z: dist.Geometric(logits=z)), (TRAIN * 9).floor()),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_no_simple_model_nothing_is_said(name):
    assert NOTHING[name]() == []
