"""A line with a bend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer, event_dims
from ppl_vae.flows.shapes import event_shape_or_any, sum_event


class LeakyReLU(Layer):
    """z_d = x_d for x_d >= 0, slope x_d below; contribution = log(slope) for each x_d below 0.

    Args:
        shape: the size or event shape; None for vectors of any size.
        slope: that of the negative side, above 0.

    Raises:
        ValueError: a slope that is not above 0: the map would have no inverse.
    """

    def __init__(self, shape: int | Sequence[int] | None = None, *, slope: float = 0.1) -> None:
        if not slope > 0:
            raise ValueError(f"LeakyReLU: a slope above 0 is required, or it has no inverse, got {slope}")
        event = event_shape_or_any("LeakyReLU", shape)
        super().__init__(event, event)
        self.slope = slope

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return torch.where(x < 0, x * self.slope, x), self._contribution(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return torch.where(z < 0, z / self.slope, z), self._contribution(z)

    def _contribution(self, value: Tensor) -> Tensor:
        each = (value < 0).to(value.dtype) * math.log(self.slope)
        return sum_event(each, event_dims(self.shape_in))
