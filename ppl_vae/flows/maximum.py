"""The largest number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Max(Layer):
    """z = max x_i, and back: one x_k, drawn uniformly, is z, and the others lie half-normal gaps below it.

    contribution = -log n + sum_{i ≠ k} log HalfNormal(z - x_i; σ),  σ learned. It is exact.

    Args:
        dim: n, the size of x; z has size 1.

    Raises:
        ValueError: a dim below 2.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.
    """

    deterministic_decode = False
    position: Tensor

    def __init__(self, dim: int) -> None:
        if dim < 2:
            raise ValueError(f"Max: dim must be at least 2, got {dim}")
        super().__init__(event_shape("Max", dim), torch.Size([1]))
        self.dim = dim
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("position", torch.arange(dim), persistent=False)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        z = x.amax(-1, keepdim=True)
        return z, self._contribution(z - x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        chosen = torch.rand_like(z).mul(self.dim).long()  # below dim: rand is below 1
        gaps = torch.randn_like(z.expand(*z.shape[:-1], self.dim)).abs() * self.log_scale.exp()
        gaps = torch.where(self.position == chosen, 0.0, gaps)
        return z - gaps, self._contribution(gaps)

    def _contribution(self, gaps: Tensor) -> Tensor:
        """The gap of the largest is 0, and adds nothing to the sum of squares."""
        squares = (gaps * (-self.log_scale).exp()).square().sum(-1)
        density = math.log(2 / math.pi) / 2 - self.log_scale  # of a half-normal at 0
        return (self.dim - 1) * density - squares / 2 - math.log(self.dim)
