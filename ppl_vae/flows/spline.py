"""The monotonic rational-quadratic spline, with linear tails."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# The least width and height of a bin, as a share of a bin of the average size, and the least slope at a knot.
_MIN_SIZE = 1e-3
_MIN_SLOPE = 1e-3
# softplus(raw + _UNIT) + _MIN_SLOPE is 1 at raw = 0: a spline of zeros is the identity.
_UNIT = 0.5397424172369522


@dataclass(frozen=True)
class Bin:
    """The one bin of the spline in which each value lies; every field has the shape of the value."""

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    slope_left: Tensor
    slope_right: Tensor


def num_params(bins: int) -> int:
    """Widths, heights, and the slopes at the knots between bins."""
    return 3 * bins - 1


def spline(x: Tensor, params: Tensor, *, bound: float) -> tuple[Tensor, Tensor]:
    """From x to z: a smooth increasing map of [-bound, bound] to itself, and the identity outside.

    Args:
        x: (...).
        params: (..., 3 K - 1) unconstrained numbers, for K bins; zeros give the identity.
        bound: half the width of the square.

    Returns:
        z (...) and log dz/dx (...).

    Source: C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, "Neural spline flows", 2019.
    """
    inside = x.abs() < bound
    held = x.clamp(-bound, bound)
    b = _find(held, params, bound, along_x=True)
    t = ((held - b.left) / b.width).clamp(0, 1)  # rounding can leave the bin
    z = b.bottom + b.height * _share(b, t)
    return torch.where(inside, z, x), torch.where(inside, _log_slope(b, t), 0.0)


def spline_inverse(z: Tensor, params: Tensor, *, bound: float) -> tuple[Tensor, Tensor]:
    """From z back to x, and the same log dz/dx."""
    inside = z.abs() < bound
    held = z.clamp(-bound, bound)
    b = _find(held, params, bound, along_x=False)
    t = _solve(b, held - b.bottom)
    return torch.where(inside, b.left + t * b.width, z), torch.where(inside, _log_slope(b, t), 0.0)


def _find(value: Tensor, params: Tensor, bound: float, *, along_x: bool) -> Bin:
    bins = (params.shape[-1] + 1) // 3
    sizes = params[..., : 2 * bins].unflatten(-1, (2, bins)).softmax(-1)
    sizes = sizes * (2 * bound * (1 - _MIN_SIZE)) + 2 * bound * _MIN_SIZE / bins  # (..., 2, K)
    knots = sizes.cumsum(-1) - bound  # right ends of the bins
    inner = knots[..., 0 if along_x else 1, :-1]
    index = (value.unsqueeze(-1) >= inner).sum(-1, keepdim=True)  # (..., 1)
    both = index.unsqueeze(-2).expand(*index.shape[:-1], 2, 1)
    width, height = sizes.gather(-1, both).squeeze(-1).unbind(-1)
    right, top = knots.gather(-1, both).squeeze(-1).unbind(-1)
    # Beyond the ends the slope is 1, that of the tails.
    slopes = F.pad(F.softplus(params[..., 2 * bins :] + _UNIT) + _MIN_SLOPE, (1, 1), value=1.0)
    slope_left, slope_right = slopes.gather(-1, torch.cat([index, index + 1], -1)).unbind(-1)
    return Bin(right - width, width, top - height, height, slope_left, slope_right)


def _share(b: Bin, t: Tensor) -> Tensor:
    """How far up its bin z lies, for x at the share t of its width."""
    mean = b.height / b.width
    tt = t * (1 - t)
    return (mean * t.square() + b.slope_left * tt) / (mean + (b.slope_left + b.slope_right - 2 * mean) * tt)


def _log_slope(b: Bin, t: Tensor) -> Tensor:
    mean = b.height / b.width
    tt = t * (1 - t)
    above = b.slope_right * t.square() + 2 * mean * tt + b.slope_left * (1 - t).square()
    below = mean + (b.slope_left + b.slope_right - 2 * mean) * tt
    return ((mean / below).square() * above).log()


def _solve(b: Bin, rise: Tensor) -> Tensor:
    """The share t at which the spline has risen by ``rise`` in its bin.

    A quadratic equation, which the share y of the rise makes symmetric: with lean = slope_left (1 - y) - slope_right y,

        t = 2 mean y / (2 mean y + lean + root),   root² = lean² + 4 mean² y (1 - y),

    and for a negative lean the same from the other end, so that nothing is ever subtracted: t stays in [0, 1].
    """
    mean = b.height / b.width
    y = (rise / b.height).clamp(0, 1)  # rounding can leave the bin
    lean = b.slope_left * (1 - y) - b.slope_right * y
    root = (lean.square() + 4 * mean.square() * y * (1 - y)).sqrt()
    rising = lean >= 0
    near = 2 * mean * torch.where(rising, y, 1 - y)
    share = near / (near + root + torch.where(rising, lean, -lean))
    return torch.where(rising, share, 1 - share)
