"""The parameters that a law is made of: found where they are, and nowhere else."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import DIM, FIT, data, fixed, low_rank, positive, shared_mean
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.inference.deterministic.links import links
from ppl_vae.pair.fixed_noise import FixedNoise

PLAIN, SCALED, RELATIVE = {"loc", "scale"}, {"loc", "scale", "unit_tril"}, {"loc", "scale", "relative_factor"}
FOUND = {
    "AutoNormal": dict.fromkeys(["mean", "scale", "weight", "share"], PLAIN),
    "AutoDiagonalNormal": {"_latent": PLAIN},
    "AutoMultivariateNormal": {"_latent": SCALED},
    "AutoLowRank": {"_latent": RELATIVE},
    "AutoGuideList": {"_latent": SCALED, "scale": PLAIN, "weight": PLAIN, "share": PLAIN},
    "functions": {"mean": {"loc", "tril"}, "scale": PLAIN, "weight": PLAIN, "share": PLAIN},
    "AutoNormal, levels": dict.fromkeys(["mean", "scale", "z"], PLAIN),
    "AutoMultivariateNormal, levels": {"_latent": SCALED},
    "free locals": dict.fromkeys(["mean", "scale", "z"], PLAIN),
    "plates": dict.fromkeys(["w", "z"], PLAIN),
    "plates together": {"_latent": SCALED},
    "weights": {"_latent": SCALED},
    "summed classes": {"loc": PLAIN},
    "a way of its own": {},
    "reparametrized": {"_latent": SCALED},
    "auxiliary": {"both": {"loc", "tril"}},
    "mask of the guide alone": {},
    "one draw at a time": {"mean": PLAIN, "scale": PLAIN},
    "matrices": {"_latent": SCALED},
    "matrices, levels": {"level": PLAIN, "z": PLAIN},
    "matrices, summed classes": {"b": PLAIN},
}


def short(site: str) -> str:
    return "_latent" if site.endswith("_latent") else site.removesuffix("_unconstrained")


@pytest.mark.parametrize("name", FIT)
def test_every_kind_is_known(name):
    noise = fixed(name)
    before = {n: leaf.detach().clone() for n, leaf in noise.pair.parameters.leaves.items()}
    found = links(noise)
    assert {short(site): set(link.names) for site, link in found.items()} == FOUND[name]
    assert all(torch.equal(before[n], leaf) for n, leaf in noise.pair.parameters.leaves.items())


def law_of(loc, scale):
    """A guide with this law of the mean, and a plain one of the scale."""

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(loc(), scale()).to_event(1))
        pyro.sample("scale", dist.LogNormal(pyro.param("k", lambda: torch.tensor(0.1)), positive("t", 0.2)))

    return guide


def param(name: str, value: float = 0.0, size: int = DIM) -> Tensor:
    found: Tensor = pyro.param(name, lambda: torch.full((size,), value))
    return found


def spread() -> Tensor:
    return positive("s", torch.full((DIM,), 0.3))


def in_both(x: Tensor) -> None:
    """One location for two sites."""
    m = param("m", size=DIM)
    pyro.sample("mean", dist.Normal(m, spread()).to_event(1))
    pyro.sample("other", dist.Normal(m, positive("r", torch.full((DIM,), 0.3))).to_event(1))


def two_means(x: Tensor) -> None:
    mean, other = (pyro.sample(n, dist.Normal(torch.zeros(DIM), 1.0).to_event(1)) for n in ("mean", "other"))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean + other, 1.0).to_event(1), obs=x)


FALSE = {
    "tanh at 0": (shared_mean, law_of(lambda: param("m").tanh(), spread)),
    "sine at 0": (shared_mean, law_of(lambda: param("m").sin(), spread)),
    "a square": (shared_mean, law_of(lambda: param("m", 1.0).square(), spread)),
    "a sum": (shared_mean, law_of(lambda: param("m") + param("n"), spread)),
    "the exponential at 0 of a scale": (shared_mean, law_of(lambda: param("m"), lambda: param("s").exp())),
    "one scale for all": (shared_mean, law_of(lambda: param("m"), lambda: positive("s", 0.3))),
    "a fixed scale": (shared_mean, law_of(lambda: param("m"), lambda: torch.tensor(0.3))),
    "turned": (shared_mean, law_of(lambda: param("m").flip(0), spread)),
    "one parameter for both": (shared_mean, law_of(spread, spread)),
    "shared by two sites": (two_means, in_both),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_is_no_parameter_as_it_is_is_not_taken_for_one(name):
    pair = Pair(*FALSE[name], dtype=torch.float64).initialize(data())
    found = links(FixedNoise(pair, pair.rows(data()).batch()))
    assert set(found) <= {"scale"}


def test_a_low_rank_by_hand():
    pair = Pair(shared_mean, low_rank("f", "d"), dtype=torch.float64).initialize(data())
    found = links(FixedNoise(pair, pair.rows(data()).batch()))
    assert found["mean"].names == {"loc", "factor", "diagonal"}


@pytest.mark.parametrize("name", FOUND)
def test_a_leaf_that_is_given_a_value_has_it(name):
    """Through the constraint, and in the parameter's own shape."""
    for link in links(fixed(name)).values():
        for leaf in link.leaves.values():
            value = leaf.value.detach()
            torch.testing.assert_close(leaf.of(value.flatten()), leaf.tensor.detach(), rtol=1e-9, atol=1e-9)


def clamped(least: float, most: float):
    """A location that is its parameter between two numbers alone."""

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(param("m"), spread()).to_event(1))
        k = pyro.param("k", lambda: torch.tensor(0.0))
        pyro.sample("scale", dist.LogNormal(k.clamp(least, most), positive("t", 0.2)))

    return guide


def test_every_parameter_is_put_elsewhere_twice():
    """At one place k is above or below any edge, so one of these two locations is k; at two places, on both sides of
    an edge, neither is."""

    def is_linked(guide) -> bool:
        pair = Pair(shared_mean, guide, dtype=torch.float64).initialize(data())
        return "scale" in links(FixedNoise(pair, pair.rows(data()).batch()))

    edges = torch.linspace(-0.2, 0.2, 21).tolist()
    found = [(is_linked(clamped(-9.0, edge)), is_linked(clamped(edge, 9.0))) for edge in edges]
    assert (False, False) in found
    assert found[0] == (False, True)
    assert found[-1] == (True, False)
