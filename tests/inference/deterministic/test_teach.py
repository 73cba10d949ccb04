"""A guide that makes its laws in a way of its own is brought to the nearest of them, its parameters to one scale."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import DIM, data, positive, shared_mean
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae import Pair
from ppl_vae.inference.deterministic.links import links
from ppl_vae.inference.deterministic.teach import teach
from ppl_vae.pair.fixed_noise import FixedNoise


def noise_of(guide) -> FixedNoise:
    pair = Pair(shared_mean, guide, dtype=torch.float64).initialize(data())
    return FixedNoise(pair, pair.rows(data()).batch())


def target(dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dim)
    root = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    return torch.randn(dim, dtype=torch.float64, generator=generator), root @ root.T + torch.eye(dim).double()


def taught(noise: FixedNoise, loc: Tensor, precision: Tensor) -> tuple[dict, Tensor]:
    known = links(noise)
    linked = {leaf.name for link in known.values() for leaf in link.leaves.values()}
    free = {n: leaf for n, leaf in noise.pair.parameters.leaves.items() if n not in linked}
    scale = teach(noise, free, loc, precision, list(known))
    with noise.scope():
        return noise.laws_now(), scale


def one_scale(x: Tensor) -> None:
    """The same spread for every entry, by an exponential, and locations by a sum."""
    loc = pyro.param("m", lambda: torch.zeros(DIM)) + 3.0
    raw = pyro.param("raw", lambda: torch.tensor(-1.0))
    pyro.sample("mean", dist.Normal(loc, raw.exp()).to_event(1))
    pyro.sample("scale", dist.LogNormal(pyro.param("k", lambda: torch.tensor(0.0)), positive("t", 0.2)))


def made_triangle(x: Tensor) -> None:
    """A triangle out of a square matrix, its diagonal by an exponential."""
    raw = pyro.param("raw", lambda: torch.zeros(DIM + 1, DIM + 1))
    tril = raw.tril(-1) + raw.diagonal().exp().diag()
    both = pyro.sample(
        "both",
        dist.MultivariateNormal(pyro.param("m", lambda: torch.zeros(DIM + 1)), scale_tril=tril),
        infer={"is_auxiliary": True},
    )
    pyro.sample("mean", dist.Delta(both[..., :DIM], event_dim=1))
    pyro.sample("scale", dist.Delta(both[..., DIM].exp(), log_density=-both[..., DIM]))


def test_the_nearest_law_of_one_scale():
    """KL(q || p) is least at the location, and where the variance is the harmonic mean of the precisions' inverse."""
    noise = noise_of(one_scale)
    assert set(links(noise)) == {"scale"}
    loc, precision = target(DIM + 1)
    precision[:DIM, DIM] = precision[DIM, :DIM] = 0.0
    laws, scale = taught(noise, loc, precision)
    base = laws["mean"].base
    torch.testing.assert_close(base.loc, loc[:DIM], rtol=0, atol=0.02)
    best = (DIM / precision.diagonal()[:DIM].sum()).sqrt()
    torch.testing.assert_close(base.scale, best.expand(DIM), rtol=0.01, atol=0)
    # the curvature: the precision for locations, and 2 a number for the log of the scale
    assert scale.shape == (4, 4)
    exact = torch.block_diag(precision[:DIM, :DIM], torch.tensor([[2.0 * DIM]]).double())
    order = [0, 1, 2, 3] if next(iter(noise.pair.parameters.leaves)).endswith("m") else [3, 0, 1, 2]
    torch.testing.assert_close(scale @ scale.T, torch.linalg.inv(exact)[order][:, order], rtol=0.02, atol=0.02)


def test_a_triangle_is_taught_any_covariance():
    noise = noise_of(made_triangle)
    assert links(noise) == {}
    loc, precision = target(DIM + 1)
    laws, scale = taught(noise, loc, precision)
    apart = kl_divergence(laws["both"].base, dist.MultivariateNormal(loc, precision_matrix=precision))
    assert float(apart.detach()) < 1e-3
    assert scale.isfinite().all()


def test_what_the_divergence_says_nothing_of_keeps_its_unit():
    """Entries above the triangle, and parameters of the model."""
    noise = noise_of(made_triangle)
    _, scale = taught(noise, *target(DIM + 1))
    size = DIM + 1
    names = [n for n, leaf in noise.pair.parameters.leaves.items()]
    first = 0 if "raw" in names[0] else size
    above = [first + i * size + j for i in range(size) for j in range(i + 1, size)]
    covariance = scale @ scale.T
    torch.testing.assert_close(covariance[above][:, above], torch.eye(len(above)).double())


def test_more_parameters_than_the_most_are_taken_as_they_are(monkeypatch):
    monkeypatch.setattr("ppl_vae.inference.deterministic.teach.MOST", 3)
    noise = noise_of(one_scale)
    loc, precision = target(DIM + 1)
    _, scale = taught(noise, loc, precision)
    assert torch.equal(scale, torch.ones(4).double())


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_precision_may_be_a_diagonal(diagonal):
    noise = noise_of(one_scale)
    loc, precision = target(DIM + 1)
    precision = precision.diagonal().diag()
    laws, _ = taught(noise, loc, precision.diagonal() if diagonal else precision)
    best = (DIM / precision.diagonal()[:DIM].sum()).sqrt()
    torch.testing.assert_close(laws["mean"].base.scale, best.expand(DIM), rtol=0.01, atol=0)
