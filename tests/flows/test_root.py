"""The root-finder, and the inverses that stand on an equation: where it is found, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from flow_laws import close, round_trip
from flow_table import DOUBLE, instance

from ppl_vae.flows import Planar, Radial
from ppl_vae.flows.planar import solve_planar
from ppl_vae.flows.root import increasing_root


@pytest.mark.parametrize("bend", [-1 + 1e-9, -0.999, -0.5, 0.0, 1.0, 30.0, 1e3])
def test_the_root_solves_the_equation(bend):
    target = torch.cat([torch.linspace(-60, 60, 241, dtype=DOUBLE), torch.tensor([1e-9, -1e-6, 1e6], dtype=DOUBLE)])
    t = solve_planar(torch.tensor(bend, dtype=DOUBLE), target)
    residual = t + bend * t.tanh() - target
    assert (residual.abs() <= 1e-12 * (1 + abs(bend) + target.abs())).all()


def steep(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return t + 1e3 * t.tanh(), 1 + 1e3 * (1 - t.tanh().square())


def test_a_bad_start_is_caught_by_the_bracket():
    t = torch.tensor([-900.0, -3.0, 0.5, 3.0, 900.0], dtype=DOUBLE)
    end = torch.full_like(t, 1e3)
    close(increasing_root(steep, -end, end, start=t), torch.zeros_like(t))


def test_newton_alone_does_not_find_it():
    """Negative twin: without the bracket, Newton's method is thrown between the two flat sides of a tanh."""
    t = torch.tensor(3.0, dtype=DOUBLE)
    for _ in range(40):
        value, slope = steep(t)
        t = t - value / slope
    assert not abs(t.item()) < 1e-6


def test_first_and_second_derivatives_are_implicit_ones():
    bend = torch.tensor([-0.7, 0.3, 2.0], dtype=DOUBLE, requires_grad=True)
    target = torch.tensor([-1.0, 0.5, 4.0], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(solve_planar, (bend, target))
    assert torch.autograd.gradgradcheck(solve_planar, (bend, target))


def test_the_derivative_is_that_of_the_formula():
    bend, target = torch.tensor(0.8, dtype=DOUBLE), torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    t = solve_planar(bend, target)
    (slope,) = torch.autograd.grad(t, target)
    close(slope, 1 / (1 + bend * (1 - t.tanh().square())).detach())


@pytest.mark.parametrize("name", ["planar", "radial"])
def test_gradients_of_the_inverse_with_respect_to_data_and_parameters(name):
    layer = instance(name)
    x = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)

    def encode(value, base):
        return torch.func.functional_call(Encode(layer), {"layer.numbers.base": base}, (value,))

    assert torch.autograd.gradcheck(encode, (x, layer.numbers.base.detach().requires_grad_()))


class Encode(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer.encode(x)


@pytest.mark.parametrize("kind", [Planar, Radial])
@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_round_trips_for_wild_parameters(kind, size):
    for seed in range(10):
        torch.manual_seed(seed)
        layer = kind(3).double()
        layer.numbers.base.data = size * torch.randn(layer.numbers.base.shape, dtype=DOUBLE)
        round_trip(layer, 5 * torch.randn(100, 3, dtype=DOUBLE), 5 * torch.randn(100, 3, dtype=DOUBLE), 1e-9)


def test_a_radial_flow_at_its_center():
    layer = instance("radial")
    center = layer.numbers.base[:3].detach().clone().requires_grad_()
    z, contribution = layer.encode(center)
    close(z, center)
    contribution.backward()
    assert center.grad.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in layer.parameters())


@pytest.mark.parametrize("kind", [Planar, Radial])
def test_parameters_at_the_edge_of_invertible_are_held_off_it(kind):
    """u against w, or β towards -α, as far as it goes: single precision still finds its way back."""
    layer = kind(2)
    edge = torch.tensor([-40.0, 0.0, 1.0, 0.0, 0.0]) if kind is Planar else torch.tensor([0.0, 0.0, 0.5, -40.0])
    layer.numbers.base.data = edge
    z = torch.cat([torch.zeros(1, 2), torch.randn(50, 2)])
    x, contribution = layer.decode(z)
    assert contribution.isfinite().all()
    back, same = layer.encode(x)
    close(back, z, 1e-3)
    close(same, contribution, 1e-2)
