"""Parameters of the model in units in which the ELBO is curved alike."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import positive
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.inference.deterministic.objective import Chart, Objective
from ppl_vae.inference.deterministic.rescale import rescale
from ppl_vae.pair.fixed_noise import FixedNoise

X = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1e4])
Y = torch.linspace(-1, 1, 20, dtype=torch.float64)


def plain(x: Tensor, y: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.zeros(2))
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * slope).sum(-1) + z, 1.0), obs=y)


def for_one_draw(x: Tensor, y: Tensor) -> None:
    """Its draws go through ``torch.vmap``."""
    slope = pyro.param("slope", lambda: torch.zeros(2))
    z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ slope + x.new_ones(len(x), 1) @ z, 1.0), obs=y)


def once(x: Tensor, y: Tensor) -> None:
    """Without second derivatives."""
    slope = pyro.param("slope", lambda: torch.zeros(2))
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    far = torch.cdist(slope.reshape(1, 2), torch.full((1, 2), 3.0), p=3.0).reshape(())
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(far + z, 1.0), obs=y)


def objective_of(model, size: tuple[int, ...]) -> Objective:
    def guide(x: Tensor, y: Tensor) -> None:
        law = dist.Normal(pyro.param("m", lambda: torch.zeros(size)), positive("s", torch.ones(size)))
        pyro.sample("z", law.to_event(len(size)))

    pair = Pair(model, guide, dtype=torch.float64).initialize((X, Y))
    noise = FixedNoise(pair, pair.rows((X, Y)).batch())
    name = next(name for name, group in pair.parameters.group.items() if group == "theta")
    chart = Chart([], {name: pair.parameters.leaves[name]}, torch.ones(2).double())
    draws = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Objective(noise, chart, draws)


@pytest.mark.parametrize(("model", "size"), [(plain, ()), (for_one_draw, (1,))])
def test_the_curvature_is_one_in_every_direction_and_the_place_the_same(model, size):
    objective = objective_of(model, size)
    assert objective.noise.vectorized == (model is plain)
    v = np.array([300.0, -2e-4])
    with objective.noise.scope():
        before = objective(v)[0]
        moved = rescale(objective, v)
        assert moved.tolist() == [0.0, 0.0]
        assert objective(moved)[0] == pytest.approx(before, rel=1e-12)
        step = 1e-3 * np.eye(2)
        rows = [(objective(row)[1] - objective(-row)[1]) / 2e-3 for row in step]
    assert np.stack(rows) == pytest.approx(np.eye(2), abs=1e-6)


def test_without_second_derivatives_coordinates_stay(monkeypatch):
    objective = objective_of(once, ())
    v = np.array([0.3, 0.1])
    with objective.noise.scope():
        assert rescale(objective, v) is v
    monkeypatch.setattr("ppl_vae.inference.deterministic.rescale.MOST", 1)
    objective = objective_of(plain, ())
    chart = objective.chart
    with objective.noise.scope():
        assert rescale(objective, v) is v
    assert objective.chart is chart
