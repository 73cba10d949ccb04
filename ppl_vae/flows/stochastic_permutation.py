"""A new order each time."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class StochasticPermutation(Layer):
    """z = x in a uniformly drawn order, and so is x given z; contribution = log 1/n! - log 1/n! = 0.

    Between two other layers it makes a flow of exchangeable numbers, at the price of a lower bound.

    Args:
        dim: n, the size of x and of z.

    Raises:
        ValueError: a dim below 1.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.
    """

    deterministic_encode = False
    deterministic_decode = False

    def __init__(self, dim: int) -> None:
        shape = event_shape("StochasticPermutation", dim)
        super().__init__(shape, shape)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return x.gather(-1, torch.rand_like(x).argsort(-1)), x.new_zeros(x.shape[:-1])

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return self._encode(z, context)
