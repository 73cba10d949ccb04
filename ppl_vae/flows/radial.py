"""The radial flow, with an inverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.numbers import Numbers
from ppl_vae.flows.shapes import event_shape

# How far α and α + β stay above 0.
_MARGIN = 1e-3


class Radial(Layer):
    """x = z + β h (z - z0),  h = 1 / (α + r),  r = |z - z0|;
    contribution = -(D - 1) log(1 + β h) - log(1 + α β h²).

    α > 0 and β > -α by 0.001, so that the map can be inverted. ``decode`` is the formula. ``encode`` needs the r that
    solves r (1 + β / (α + r)) = |x - z0|; with the denominator cleared this is a quadratic equation, solved in its
    stable form.

    Args:
        dim: D, the size of x and of z.
        context_dim: the size of a context that z0, α and β depend on; None for learned numbers.

    Raises:
        ValueError: a dim below 1.

    Source: D. J. Rezende, S. Mohamed, "Variational inference with normalizing flows", 2015 (appendix A.2).
    """

    def __init__(self, dim: int, *, context_dim: int | None = None) -> None:
        shape = event_shape("Radial", dim)
        super().__init__(shape, shape, context_dim=context_dim)
        self.dim = dim
        unit = math.log(math.e - 1)  # softplus of it is 1: α = 1 and β = 0, the identity
        start = torch.cat([0.1 * torch.randn(dim), torch.tensor([unit, unit])])
        self.numbers = Numbers(start, context_dim=context_dim)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        center, alpha, beta = self._read(context)
        away = x - center
        r = _radius(away.norm(dim=-1, keepdim=True), alpha, beta)
        return center + away * ((alpha + r) / (alpha + r + beta)), self._contribution(r, alpha, beta)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        center, alpha, beta = self._read(context)
        away = z - center
        r = away.norm(dim=-1, keepdim=True)
        return torch.addcmul(z, away, beta / (alpha + r)), self._contribution(r, alpha, beta)

    def _contribution(self, r: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        h = 1 / (alpha + r)
        return -((self.dim - 1) * torch.log1p(beta * h) + torch.log1p(alpha * beta * h * h)).squeeze(-1)

    def _read(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        center, raw_alpha, raw_beta = self.numbers(context).split([self.dim, 1, 1], -1)
        alpha = softplus(raw_alpha) + _MARGIN
        return center, alpha, softplus(raw_beta) + _MARGIN - alpha


def _radius(distance: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The r >= 0 with r² + (α + β - R) r - α R = 0, for R the distance of x."""
    half = (alpha + beta - distance) / 2
    root = (half * half + alpha * distance).sqrt()
    # The form that adds two numbers of one sign; the other is given a harmless denominator, for its derivative.
    positive = half > 0
    return torch.where(positive, alpha * distance / torch.where(positive, half + root, 1.0), root - half)
