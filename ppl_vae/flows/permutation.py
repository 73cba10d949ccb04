"""A fixed order."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Permutation(Layer):
    """z_i = x_{order_i}, for a fixed order drawn from a seed; contribution = 0.

    Args:
        dim: D, the size of x and of z.
        seed: the order is a function of it and of nothing else; it is also kept in checkpoints.

    Raises:
        ValueError: a dim below 1.

    >>> layer = Permutation(5, seed=1)
    >>> sorted(layer.order.tolist())
    [0, 1, 2, 3, 4]
    """

    order: Tensor
    back: Tensor

    def __init__(self, dim: int, *, seed: int = 0) -> None:
        shape = event_shape("Permutation", dim)
        super().__init__(shape, shape)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("order", torch.randperm(dim, generator=generator))
        self.register_buffer("back", self.order.argsort())

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return x.index_select(-1, self.order), x.new_zeros(x.shape[:-1])

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return z.index_select(-1, self.back), z.new_zeros(z.shape[:-1])
