"""Between a box and all real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.flows.domains import Box
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Bounded(Layer):
    """z_d = logit((x_d - low_d) / (high_d - low_d)) where both ends are finite, z_d = x_d where neither is.

    The first layer of a chain whose x is to live in a box: what the chain decodes keeps to it. The contribution is the
    sum over bounded d of -log((high_d - low_d) s(z_d) s(-z_d)), s the logistic function.

    Args:
        low, high: the ends, D numbers each; both infinite where a coordinate is free.

    Raises:
        ValueError: sequences of different sizes; low >= high; one end finite alone.

    >>> layer = Bounded([-4.0, -math.inf], [4.0, math.inf])
    >>> layer.decode(torch.tensor([100.0, 100.0]))[0]
    tensor([  4., 100.])
    """

    bounded: Tensor
    start: Tensor
    width: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        low, high = tuple(map(float, low)), tuple(map(float, high))
        _check_ends(low, high)
        shape = event_shape("Bounded", len(low))
        super().__init__(shape, shape)
        self.domain = Box(low, high)
        bounded = [math.isfinite(end) for end in low]
        start = [end if is_bounded else 0.0 for end, is_bounded in zip(low, bounded, strict=True)]
        width = [b - a if is_bounded else 1.0 for a, b, is_bounded in zip(low, high, bounded, strict=True)]
        self.register_buffer("bounded", torch.tensor(bounded), persistent=False)
        self.register_buffer("start", torch.tensor(start), persistent=False)
        self.register_buffer("width", torch.tensor(width), persistent=False)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        # A half stands in for what is not used: its logarithm has a gradient, and 0 times infinity would be none.
        part = torch.where(self.bounded, (x - self.start) / self.width, 0.5)
        z = torch.where(self.bounded, part.log() - (-part).log1p(), x)
        return z, self._contribution(z)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        x = torch.where(self.bounded, self.start + self.width * z.sigmoid(), z)
        return x, self._contribution(z)

    def _contribution(self, z: Tensor) -> Tensor:
        slope = self.width.log() + logsigmoid(z) + logsigmoid(-z)
        return -torch.where(self.bounded, slope, 0.0).sum(-1)


def _check_ends(low: Sequence[float], high: Sequence[float]) -> None:
    if len(low) != len(high):
        raise ValueError(f"Bounded: low and high of one size are required, got {len(low)} and {len(high)}")
    for d, (a, b) in enumerate(zip(low, high, strict=True)):
        if not a < b or math.isfinite(a) != math.isfinite(b):
            raise ValueError(
                f"Bounded: low < high, both finite or both infinite, are required in each coordinate, got {a:g} and "
                f"{b:g} in coordinate {d}"
            )
