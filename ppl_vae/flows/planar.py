"""The planar flow, with an inverse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.numbers import Numbers
from ppl_vae.flows.root import increasing_root
from ppl_vae.flows.shapes import event_shape

# How far wᵀû stays above -1, where the map would fold.
_MARGIN = 1e-3


class Planar(Layer):
    """x = z + û tanh(wᵀz + b); contribution = -log(1 + wᵀû (1 - tanh²(wᵀz + b))).

    û = u + (softplus(wᵀu) - 0.999 - wᵀu) w / |w|², so that wᵀû > -0.999 and the map can be inverted.
    ``decode`` is the formula. ``encode`` needs the a = wᵀz + b that solves a + wᵀû tanh(a) = wᵀx + b, an equation in
    one unknown, by a bracketed Newton search with implicit derivatives; then z = x - û tanh(a).

    Args:
        dim: D, the size of x and of z.
        context_dim: the size of a context that u, w and b depend on; None for learned numbers.

    Raises:
        ValueError: a dim below 1.

    Source: D. J. Rezende, S. Mohamed, "Variational inference with normalizing flows", 2015 (appendix A.1).
    """

    def __init__(self, dim: int, *, context_dim: int | None = None) -> None:
        shape = event_shape("Planar", dim)
        super().__init__(shape, shape, context_dim=context_dim)
        self.dim = dim
        start = torch.cat([0.1 * torch.randn(dim), torch.randn(dim) / dim**0.5, torch.zeros(1)])
        self.numbers = Numbers(start, context_dim=context_dim)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        u, w, b, bend = self._read(context)
        tanh = solve_planar(bend, (x * w).sum(-1) + b).tanh()
        return x - u * tanh.unsqueeze(-1), self._contribution(tanh, bend)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        u, w, b, bend = self._read(context)
        tanh = ((z * w).sum(-1) + b).tanh()
        return z + u * tanh.unsqueeze(-1), self._contribution(tanh, bend)

    @staticmethod
    def _contribution(tanh: Tensor, bend: Tensor) -> Tensor:
        return -torch.log1p(bend * (1 - tanh * tanh))

    def _read(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """û, w, b and wᵀû."""
        u, w, b = self.numbers(context).split([self.dim, self.dim, 1], -1)
        along = (w * u).sum(-1, keepdim=True)
        bend = softplus(along) - (1 - _MARGIN)
        u = u + (bend - along) * w / w.square().sum(-1, keepdim=True)
        return u, w, b.squeeze(-1), bend.squeeze(-1)


def solve_planar(bend: Tensor, target: Tensor) -> Tensor:
    """The a with a + bend tanh(a) = target, for bend > -1.

    The equation is odd, so think of a target >= 0. Then a >= 0, where the left side is concave for bend > 0, and convex
    for bend < 0. The search starts from a lower bound on a in the first case, from an upper bound in the second: from
    there Newton's method never passes the zero.
    """

    def f(a: Tensor) -> tuple[Tensor, Tensor]:
        tanh = a.tanh()
        return a + bend * tanh - target, 1 + bend * (1 - tanh * tanh)

    with torch.no_grad():
        size, reach = target.abs(), bend.abs()
        line, shifted = size / (1 + bend), size - bend  # tanh(a) between 0 and a, and between 0 and 1
        cubic = (5 * size).pow(1 / 3)  # a - tanh(a) >= a³ / 5 for a <= 1: what bounds a where bend is near -1
        above = torch.minimum(torch.minimum(line, shifted), torch.where(size < 0.2, cubic, shifted))
        start = target.sign() * torch.where(bend > 0, torch.maximum(line, shifted), above)
    return increasing_root(f, target - reach, target + reach, start=start, iterations=16)
