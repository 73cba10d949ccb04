"""The rational-quadratic spline against zuko's, at its knots, and beyond its ends."""

from __future__ import annotations

import math

import pytest
import torch
from flow_laws import close
from flow_table import DOUBLE

from ppl_vae.flows.spline import num_params, spline, spline_inverse
from ppl_vae.flows.zuko_layer import import_zuko

BINS = 6


def params(n: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(n, num_params(BINS), dtype=DOUBLE)


def test_zeros_are_the_identity():
    x = torch.linspace(-6, 6, 101, dtype=DOUBLE)
    z, log_slope = spline(x, torch.zeros(101, num_params(BINS), dtype=DOUBLE), bound=5.0)
    close(z, x)
    close(log_slope, torch.zeros_like(x))


@pytest.mark.parametrize("size", [0.3, 1.0, 4.0])
def test_it_rises_and_can_be_undone(size):
    x = torch.linspace(-3.5, 3.5, 2001, dtype=DOUBLE)
    p = params(1, size).expand(2001, -1)
    z, log_slope = spline(x, p, bound=3.0)
    assert (z.diff() > 0).all()
    back, same = spline_inverse(z, p, bound=3.0)
    close(back, x, 1e-9)
    close(same, log_slope, 1e-6)  # at slopes of 1e-3 the share of the bin is known to 1e-13 / 1e-3


def test_the_slope_is_the_derivative():
    x = (3 * torch.randn(500, dtype=DOUBLE)).requires_grad_()
    z, log_slope = spline(x, params(500), bound=3.0)
    (slope,) = torch.autograd.grad(z.sum(), x)
    close(log_slope.exp(), slope, 1e-9)


def test_knots_and_ends_are_continuous():
    p = params(1)
    ends = torch.tensor([-3.0, 3.0], dtype=DOUBLE)
    z, log_slope = spline(ends, p.expand(2, -1), bound=3.0)
    close(z, ends)
    close(log_slope, torch.zeros(2, dtype=DOUBLE))
    near = torch.tensor([-3 + 1e-12, 3 - 1e-12], dtype=DOUBLE)
    close(spline(near, p.expand(2, -1), bound=3.0)[1], torch.zeros(2, dtype=DOUBLE), 1e-8)


def test_it_is_zukos_spline_for_the_same_knots():
    """The two differ in how numbers become knots, so zuko is given the knots that ours are."""
    zuko = import_zuko()
    p, x = params(50, 0.5), torch.randn(50, dtype=DOUBLE)
    widths, heights, raw = p.split([BINS, BINS, BINS - 1], -1)
    sizes = [0.999 * w.softmax(-1) + 0.001 / BINS for w in (widths, heights)]
    slopes = torch.nn.functional.softplus(raw + math.log(math.exp(1 - 1e-3) - 1)) + 1e-3
    theirs = zuko.transforms.MonotonicRQSTransform(
        *map(softclip_inverse, sizes, (0.5, 0.5)), *unclip(slopes), bound=3.0
    )
    expected, log_slope = theirs.call_and_ladj(x)
    z, ours = spline(x, p, bound=3.0)
    close(z, expected, 1e-8)
    close(ours, log_slope, 1e-8)


def softclip_inverse(share: torch.Tensor, factor: float) -> torch.Tensor:
    """Numbers whose softmax, after zuko's soft clipping v / (1 + |v / (factor log 1000)|), is the share."""
    centred = share.log() - share.log().mean(-1, keepdim=True)
    return centred / (1 - centred.abs() / (factor * math.log(1e3)))


def unclip(slopes: torch.Tensor) -> tuple[torch.Tensor]:
    return (slopes.log() / (1 - slopes.log().abs() / math.log(1e3)),)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("size", [0.0, 1.0, 10.0, 60.0])
def test_rounding_leaves_no_bin(size, dtype):
    """Values, slopes and derivatives are finite at any parameters, on knots, at the ends and beyond.

    What is found for z is taken to z again: a flat piece of the spline leaves x open, but not that.
    """
    torch.manual_seed(0)
    raw = (size * torch.randn(20000, num_params(8))).to(dtype).requires_grad_()
    ends = torch.tensor([5.0, -5.0, 5.0000005, -4.9999995, 0.0])
    x = torch.cat([10 * torch.rand(18000) - 5, ends.repeat(200), 1e3 * torch.randn(1000)]).to(dtype).requires_grad_()
    z, log_slope = spline(x, raw, bound=5.0)
    given = z.detach().requires_grad_()
    back, same = spline_inverse(given, raw, bound=5.0)
    slopes = (*torch.autograd.grad(z.sum() + log_slope.sum(), (x, raw)),)
    slopes += torch.autograd.grad(back.sum() + same.sum(), (given, raw))
    assert all(bool(value.isfinite().all()) for value in (z, log_slope, back, same, *slopes))
    again, _ = spline(back.double(), raw.double(), bound=5.0)
    assert (again - given).abs().max() < 1e5 * torch.finfo(dtype).eps  # slopes reach 1e4
    assert (again - given).abs().mean() < 20 * torch.finfo(dtype).eps


def test_slopes_on_knots_are_the_slopes_of_the_knots():
    p = params(1, 3.0)
    sizes = p[..., : 2 * BINS].unflatten(-1, (2, BINS)).softmax(-1) * 6 * (1 - 1e-3) + 6e-3 / BINS
    x_knots, z_knots = (sizes.cumsum(-1) - 3.0)[0, :, :-1]
    expected = (torch.nn.functional.softplus(p[0, 2 * BINS :] + 0.5397424172369522) + 1e-3).log()
    p = p.expand(BINS - 1, -1)
    for found in (spline(x_knots, p, bound=3.0), spline_inverse(z_knots, p, bound=3.0)):
        close(found[1], expected, 1e-8)
