"""What the table cannot know of a box: coordinates that are free, its ends, its errors."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from flow_laws import close

from ppl_vae.flows import Bounded
from ppl_vae.flows.domains import Box, within

DOUBLE = torch.float64


def test_free_coordinates_pass_as_they_are():
    layer = Bounded([-4.0, -math.inf], [4.0, math.inf]).double()
    x = torch.tensor([[1.0, 50.0], [-3.9, -700.0]], dtype=DOUBLE).requires_grad_()
    z, contribution = layer.encode(x)
    alone, volume = Bounded([-4.0], [4.0]).double().encode(x[:, :1])
    assert torch.equal(z[:, 1], x[:, 1]) and torch.equal(z[:, :1], alone) and torch.equal(contribution, volume)
    (slopes,) = torch.autograd.grad(contribution.sum(), x)
    assert bool(slopes.isfinite().all()) and slopes[:, 1].abs().max() == 0
    back, again = layer.decode(z)
    close(back, x)
    close(again, contribution)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_what_it_decodes_lies_in_the_box(dtype):
    layer = Bounded([-0.3, 1e-3], [0.1, 70.0]).to(dtype)
    x, contribution = layer.decode(torch.tensor([[-1e4, 1e4], [3.0, -1e3], [40.0, 0.0]], dtype=dtype))
    assert bool(layer.domain.check(x).all()) and bool(contribution.isfinite().all())


def test_a_stretched_beta_has_its_density():
    """A beta on (-2, 3), seen as a law of z: the change of variables by hand."""
    layer, p = Bounded([-2.0], [3.0]).double(), dist.Beta(2.0, 3.0)
    x = torch.linspace(-1.9, 2.9, 20, dtype=DOUBLE).unsqueeze(-1)
    z, contribution = layer.encode(x)
    u = (x + 2) / 5
    close(z, u.log() - (1 - u).log())
    close(p.log_prob(u)[:, 0] - math.log(5.0) - contribution, (p.log_prob(u) + u.log() + (1 - u).log())[:, 0])


def test_boxes_as_domains():
    assert within(Box((0.0,), (1.0,)), Box((0.0,), (1.0,)))
    assert not within(Box((0.0,), (2.0,)), Box((0.0,), (1.0,)))
    assert repr(Bounded([-4.0, -math.inf], [4.0, math.inf]).domain) == "[-4, 4] x [-inf, inf]"
    with pytest.raises(ValueError, match=r"Bounded: x must lie in \[-4, 4\], got values from 5 to 5"):
        Bounded([-4.0], [4.0]).encode(torch.tensor([5.0]))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([0.0], [0.0], "got 0 and 0 in coordinate 0"),
        ([0.0, 0.0], [1.0, math.inf], "got 0 and inf in coordinate 1"),
        ([0.0], [1.0, 2.0], "of one size are required, got 1 and 2"),
    ],
)
def test_errors(low, high, message):
    with pytest.raises(ValueError, match=message):
        Bounded(low, high)
