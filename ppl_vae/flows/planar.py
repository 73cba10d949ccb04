"""The planar flow, with an inverse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.flows.layer import Layer, Coded
from ppl_vae.flows.numbers import Numbers
from ppl_vae.flows.root import increasing_root
from ppl_vae.flows.shapes import event_shape


class Planar(Layer):
    """x = z + û tanh(wᵀz + b); contribution = -log(1 + wᵀû (1 - tanh²(wᵀz + b))).

    û = u + (softplus(wᵀu) - 1 - wᵀu) w / |w|², so that wᵀû > -1 and the map can be inverted. ``decode`` is the formula.
    ``encode`` needs the a = wᵀz + b that solves a + wᵀû tanh(a) = wᵀx + b, an equation in one unknown, by a bracketed
    Newton search with implicit derivatives; then z = x - û tanh(a).

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
        target = (x * w).sum(-1) + b

        def f(a: Tensor) -> tuple[Tensor, Tensor]:
            tanh = a.tanh()
            return a + bend * tanh - target, 1 + bend * (1 - tanh * tanh)

        reach = bend.abs()
        a = increasing_root(f, target - reach, target + reach)
        tanh = a.tanh()
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
        bend = softplus(along) - 1
        u = u + (bend - along) * w / w.square().sum(-1, keepdim=True)
        return u, w, b.squeeze(-1), bend.squeeze(-1)
