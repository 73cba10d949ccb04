"""A scale and a shift for each number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.numbers import Numbers
from ppl_vae.flows.shapes import event_shape


class ElementwiseAffine(Layer):
    """z_d = x_d exp(s_d) + t_d, with s and t learned, or functions of the context; contribution = sum of s.

    With a context it is the diagonal normal q(x | c) of an amortized guide, as a layer.

    Args:
        shape: the size of x and of z, or their event shape.
        context_dim: the size of the context that s and t depend on; None for learned numbers.
        hidden: the widths of the network of the context.

    Raises:
        ValueError: a size below 1.

    >>> layer = ElementwiseAffine(3)
    >>> layer.encode(torch.zeros(2, 3))[1]
    tensor([0., 0.], grad_fn=<ExpandBackward0>)
    """

    def __init__(
        self, shape: int | Sequence[int], *, context_dim: int | None = None, hidden: Sequence[int] = (64, 64)
    ) -> None:
        event = event_shape("ElementwiseAffine", shape)
        super().__init__(event, event, context_dim=context_dim)
        self.numbers = Numbers(torch.zeros(2 * event.numel()), context_dim=context_dim, hidden=hidden)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        shift, log_scale, total = self._read(context)
        return torch.addcmul(shift, x, log_scale.exp()), total.expand(self._leading(x, self.shape_in))

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        shift, log_scale, total = self._read(context)
        return (z - shift) * (-log_scale).exp(), total.expand(self._leading(z, self.shape_out))

    def _read(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert self.shape_in is not None
        shift, log_scale = self.numbers(context).chunk(2, -1)
        total = log_scale.sum(-1)
        return shift.unflatten(-1, self.shape_in), log_scale.unflatten(-1, self.shape_in), total
