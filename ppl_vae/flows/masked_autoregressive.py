"""The autoregressive layer that is fast to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.made import MADE
from ppl_vae.flows.shapes import event_shape

_MAX_LOG_SCALE = 3.0


class MaskedAutoregressive(Layer):
    """z_d = x_d exp(s_d) + t_d,  with s_d and t_d from a masked network of x_1, ..., x_{d-1}; contribution = sum of s.

    ``encode`` costs one call of the network, ``decode`` D of them, one number after another. Put a ``Reverse`` or a
    ``Permutation`` between two of these, so that each number is some time the last.

    Args:
        dim: D, the size of x and of z.
        hidden: the widths of the network's hidden layers, at least one.
        activation: makes its activation.
        context_dim: the size of a context that goes into the network; None for an unconditional layer.

    Raises:
        ValueError: a dim below 1, no hidden layer.

    Source: G. Papamakarios, T. Pavlakou, I. Murray, "Masked autoregressive flow for density estimation", 2017.
    """

    column: Tensor

    def __init__(
        self,
        dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context_dim: int | None = None,
    ) -> None:
        shape = event_shape("MaskedAutoregressive", dim)
        super().__init__(shape, shape, context_dim=context_dim)
        self.network = MADE(dim, 2, hidden=hidden, activation=activation, context_dim=context_dim)
        self.register_buffer("column", torch.arange(dim), persistent=False)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        shift, log_scale = self._read(x, context)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.sum(-1)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        x = torch.zeros_like(z)
        for d in range(z.shape[-1]):
            shift, log_scale = self._read(x, context)
            # One column a time: the columns after it hold zeros, not numbers that might overflow.
            x = torch.where(self.column == d, (z - shift) * (-log_scale).exp(), x)
        return x, log_scale.sum(-1)

    def _read(self, x: Tensor, context: Tensor | None) -> Coded:
        shift, raw = self.network(x, context)
        return shift, raw.tanh() * _MAX_LOG_SCALE
