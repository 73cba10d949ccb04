"""Between a box and all real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.flows.domains import Box, held_in_unit_interval
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Bounded(Layer):
    """z_d = logit((x_d - low_d) / (high_d - low_d)) where both ends are finite, z_d = x_d where neither is.

    An x on an end of the box is read as the last number inside: z is finite, at most 17 in float32 (37 in float64) and
    at least -88 (-709).

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
    end: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        low, high = tuple(map(float, low)), tuple(map(float, high))
        _check_ends(low, high)
        shape = event_shape("Bounded", len(low))
        super().__init__(shape, shape)
        self.domain = Box(low, high)
        for name in ("start", "end"):
            self.register_buffer(name, torch.zeros(len(low)), persistent=False)
        self.register_buffer("bounded", torch.tensor([math.isfinite(end) for end in low]), persistent=False)
        self._set_ends()

    def _set_ends(self) -> None:
        """The ends in the type that is in use; free coordinates get numbers that nothing depends on."""
        assert isinstance(self.domain, Box)
        self.start = self.start.new_tensor([end if math.isfinite(end) else 0.0 for end in self.domain.low])
        self.end = self.end.new_tensor([end if math.isfinite(end) else 1.0 for end in self.domain.high])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """A change of type or device; from float32 to float64 the ends are read anew, not widened."""
        super()._apply(fn, recurse)
        self._set_ends()
        return self

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        # A half stands in for what is not used: its logarithm has a gradient, and 0 times infinity would be none.
        part = torch.where(self.bounded, (x - self.start) / (self.end - self.start), 0.5)
        part = held_in_unit_interval(part)
        z = torch.where(self.bounded, part.log() - (-part).log1p(), x)
        return z, self._contribution(z)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        inside = torch.lerp(self.start, self.end, z.sigmoid()).clamp(self.start, self.end)
        return torch.where(self.bounded, inside, z), self._contribution(z)

    def _contribution(self, z: Tensor) -> Tensor:
        slope = (self.end - self.start).log() + logsigmoid(z) + logsigmoid(-z)
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
