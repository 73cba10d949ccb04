"""The other end first."""

from __future__ import annotations

from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Reverse(Layer):
    """z_i = x_{D+1-i}; contribution = 0.

    Args:
        dim: D, the size of x and of z.

    Raises:
        ValueError: a dim below 1.
    """

    def __init__(self, dim: int) -> None:
        shape = event_shape("Reverse", dim)
        super().__init__(shape, shape)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return x.flip(-1), x.new_zeros(x.shape[:-1])

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return self._encode(z, context)
