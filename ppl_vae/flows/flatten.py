"""Images as vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Flatten(Layer):
    """z = the entries of x in one row, as couplings take them; contribution = 0.

    Args:
        shape: the event shape of x; z has its product as size.

    Raises:
        ValueError: a size below 1.

    >>> Flatten((1, 8, 8)).encode(torch.zeros(100, 1, 8, 8))[0].shape
    torch.Size([100, 64])
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        event = event_shape("Flatten", shape)
        super().__init__(event, torch.Size((math.prod(event),)))
        self.event, self.size = event, math.prod(event)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        leading = self._leading(x, self.shape_in)
        return x.reshape(*leading, self.size), x.new_zeros(leading)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        leading = z.shape[:-1]
        return z.reshape(*leading, *self.event), z.new_zeros(leading)
