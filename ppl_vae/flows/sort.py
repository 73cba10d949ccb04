"""The order forgotten."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.flows.domains import Ascending
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Sort(Layer):
    """z = x in ascending order, and back x = z in a uniformly drawn order; contribution = -log n!.

    For n exchangeable numbers. It is exact for a p(z) on ascending vectors. ``Inverse(Sort(n))`` decodes by sorting,
    with +log n! and a lower bound.

    Args:
        dim: n, the size of x and of z.

    Raises:
        ValueError: a dim below 1.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.

    >>> Sort(3).encode(torch.tensor([3.0, 1.0, 2.0]))
    (tensor([1., 2., 3.]), tensor(-1.7918))
    """

    deterministic_decode = False
    codomain = Ascending()

    def __init__(self, dim: int) -> None:
        shape = event_shape("Sort", dim)
        super().__init__(shape, shape)
        self.log_orders = math.lgamma(dim + 1)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return x.sort(-1).values, x.new_full(x.shape[:-1], -self.log_orders)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        order = torch.rand_like(z).argsort(-1)
        return z.gather(-1, order), z.new_full(z.shape[:-1], -self.log_orders)
