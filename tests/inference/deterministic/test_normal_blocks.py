"""Coordinates of normal laws: at 0 stands the given normal, and elsewhere the one that the formula says."""

from __future__ import annotations

import pytest
import torch
from normal_pairs import FIT, data, fixed, low_rank, shared_mean
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.inference.deterministic.beginning import Beginning
from ppl_vae.inference.deterministic.blocks import Block, Full, LowRank, blocks_of
from ppl_vae.inference.deterministic.links import links
from ppl_vae.inference.deterministic.objective import Chart, Objective
from ppl_vae.pair.fixed_noise import FixedNoise

LINKED = [name for name in FIT if name not in ("a way of its own", "mask of the guide alone")]


def normal(dim: int, *, rank: int | None = None) -> Beginning:
    """A normal whose scales reach from 1e-4 to 1e4, of correlated numbers; with ``rank`` common factors if given."""
    generator = torch.Generator().manual_seed(dim)
    units = torch.logspace(-4, 4, dim, dtype=torch.float64)
    factor = torch.randn(dim, rank or dim, dtype=torch.float64, generator=generator)
    own = torch.rand(dim, dtype=torch.float64, generator=generator) + 0.5
    covariance = (factor @ factor.T + own.diag()) * units * units.unsqueeze(1)
    scale = units.reciprocal()
    scaled = torch.linalg.inv(covariance * scale * scale.unsqueeze(1))
    precision = scaled * scale * scale.unsqueeze(1)
    loc = torch.randn(dim, dtype=torch.float64, generator=generator) * units
    return Beginning(loc, (precision + precision.T) / 2, starts=1)


def covariance_of(block: Block, law: object) -> Tensor:
    base = law.base  # type: ignore[attr-defined]
    if hasattr(base, "cov_factor"):
        factor, own = base.cov_factor.reshape(block.dim, -1), base.cov_diag.reshape(-1)
        return factor @ factor.T + own.diag()
    if hasattr(base, "scale_tril"):
        tril = base.scale_tril.reshape(block.dim, block.dim)
        return tril @ tril.T
    return base.scale.reshape(-1).square().diag()


def close(found: Tensor, exact: Tensor, tol: float = 1e-8) -> None:
    """Equal in units of the standard deviations."""
    scale = exact.diagonal().rsqrt()
    torch.testing.assert_close(found * scale * scale.unsqueeze(1), exact * scale * scale.unsqueeze(1), rtol=0, atol=tol)


def laid(noise: FixedNoise, beginning: Beginning) -> list[Block]:
    """Blocks, with the pair's parameters put at 0."""
    blocks = blocks_of(noise, links(noise), beginning)
    chart = Chart(blocks, {}, torch.ones(0, dtype=torch.float64))
    draws = torch.zeros(2, noise.noise_dim, dtype=torch.float64)
    Objective(noise, chart, draws).place(chart.leaves(torch.zeros(chart.size, dtype=torch.float64)))
    return blocks


def nearest_diagonal(precision: Tensor) -> Tensor:
    """The covariance of the independent normal that is nearest in KL(q || p)."""
    return precision.diagonal().reciprocal().diag()


@pytest.mark.parametrize("name", LINKED)
def test_at_0_stands_the_normal(name):
    noise = fixed(name)
    rank = int(noise.laws[next(iter(noise.laws))].base.cov_factor.shape[-1]) if name == "AutoLowRank" else None
    beginning = normal(noise.dim, rank=rank)
    blocks = iter(laid(noise, beginning))
    place = 0
    with noise.scope():
        laws = noise.laws_now()
    for site, size in noise.sizes.items():
        block, part = next(blocks), slice(place, place + size)
        place += size
        precision = beginning.precision[part, part]
        sd = precision.diagonal().rsqrt()
        torch.testing.assert_close(laws[site].base.loc.reshape(-1) / sd, beginning.loc[part] / sd, rtol=1e-9, atol=1e-9)
        found = covariance_of(block, laws[site])
        if isinstance(block, Full):
            close(found, torch.linalg.inv(precision))
        elif isinstance(block, LowRank):
            close(found, torch.linalg.inv(precision), tol=5e-3)  # by an iteration
        else:
            close(found, nearest_diagonal(precision))


@pytest.mark.parametrize("name", LINKED)
def test_elsewhere_stands_what_the_formula_says(name):
    noise = fixed(name)
    beginning = normal(noise.dim)
    blocks = laid(noise, beginning)
    chart = Chart(blocks, {}, torch.ones(0, dtype=torch.float64))
    v = 0.5 * torch.randn(chart.size, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    draws = torch.zeros(2, noise.noise_dim, dtype=torch.float64)
    Objective(noise, chart, draws).place(chart.leaves(v))
    with noise.scope():
        laws = list(noise.laws_now().values())
    for block, law, own in zip(blocks, laws, v.split([block.size for block in blocks]), strict=True):
        d = block.dim
        a, b, rest = own[:d], own[d : 2 * d], own[2 * d :]
        if isinstance(block, Full):
            inner = b.exp().diag()
            inner[block.rows, block.columns] = rest
            loc, exact = block.loc + block.factor @ a, block.factor @ inner @ inner.T @ block.factor.T
        elif isinstance(block, LowRank):
            relative, scale = block.common + rest.reshape(d, -1), block.scale * b.exp()
            exact = (relative @ relative.T + torch.eye(d).double()) * scale * scale.unsqueeze(1)
            loc = block.loc + block.factor @ a
        else:
            loc, exact = block.loc + block.scale * a, (block.scale * b.exp()).square().diag()
        sd = exact.diagonal().sqrt()
        torch.testing.assert_close(law.base.loc.reshape(-1) / sd, loc / sd, rtol=1e-8, atol=1e-8)
        close(covariance_of(block, law), exact)


def test_a_low_rank_of_a_factor_and_a_diagonal():
    pair = Pair(shared_mean, low_rank("f", "d"), dtype=torch.float64).initialize(data())
    noise = FixedNoise(pair, pair.rows(data()).batch())
    beginning = Beginning(normal(3, rank=1).loc, normal(3, rank=1).precision, starts=1)
    whole = torch.block_diag(beginning.precision, torch.ones(1, 1).double())
    blocks = laid(noise, Beginning(torch.cat([beginning.loc, torch.zeros(1).double()]), whole, starts=1))
    with noise.scope():
        found = covariance_of(blocks[0], noise.laws_now()["mean"])
    close(found, torch.linalg.inv(beginning.precision), tol=5e-3)


@pytest.mark.parametrize("name", ["AutoNormal", "AutoMultivariateNormal", "AutoLowRank", "functions", "free locals"])
def test_the_gradient_in_coordinates_is_that_of_differences(name):
    """Also of parameters of the model, and of laws made in a way of their own."""
    noise = fixed(name)
    blocks = laid(noise, Beginning(torch.zeros(noise.dim).double(), torch.eye(noise.dim).double() * 4, starts=1))
    chart = Chart(blocks, {}, torch.ones(0, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    objective = Objective(noise, chart, torch.randn(8, noise.noise_dim, dtype=torch.float64, generator=generator))
    v, way = (torch.randn(chart.size, dtype=torch.float64, generator=generator).numpy() for _ in range(2))
    v *= 0.3
    with noise.scope():
        _, gradient = objective(v)
        ends = [objective(v + sign * 1e-5 * way)[0] for sign in (1, -1)]
    assert float(gradient @ way) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
    assert objective.evaluations == 3


def test_the_value_does_not_hang_on_the_blocks_of_draws(monkeypatch):
    noise = fixed("AutoNormal")
    blocks = laid(noise, Beginning(torch.zeros(noise.dim).double(), torch.eye(noise.dim).double() * 4, starts=1))
    chart = Chart(blocks, {}, torch.ones(0, dtype=torch.float64))
    draws = torch.randn(10, noise.noise_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective, v = Objective(noise, chart, draws), 0.1 * torch.ones(chart.size).double().numpy()
    with noise.scope():
        whole = objective(v)
        monkeypatch.setattr("ppl_vae.pair.fixed_noise.MAX_VALUES", 1)
        parts = objective(v)
    assert noise.block == 2
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    assert parts[1] == pytest.approx(whole[1], rel=1e-9, abs=1e-9)
