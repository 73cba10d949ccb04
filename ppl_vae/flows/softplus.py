"""Between the line and the positive half-line."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from ppl_vae.flows.domains import held_above_zero
from ppl_vae.flows.layer import Coded, Layer, event_dims
from ppl_vae.flows.shapes import event_shape_or_any, sum_event


class Softplus(Layer):
    """z_d = log(1 + exp(x_d)), above 0; contribution = sum of log sigmoid(x_d).

    Where z rounds to 0 (x below -87 in float32, -708 in float64) the least normal number stands for it, so that
    ``decode`` takes what ``encode`` gives.

    ``Inverse(Softplus())`` takes positive numbers to the line: what stands behind an ``Abs``, so that a normal p(z)
    will do. It is linear for large numbers, where a logarithm would squeeze them.

    Args:
        shape: the size or event shape; None for vectors of any size.
    """

    codomain = constraints.positive

    def __init__(self, shape: int | Sequence[int] | None = None) -> None:
        event = event_shape_or_any("Softplus", shape)
        super().__init__(event, event)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        # torch's softplus is x itself above its threshold; at 40 they are one number in float64 too.
        return held_above_zero(softplus(x, threshold=40.0)), self._contribution(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        x = z + (-(-z).expm1()).log()
        return x, self._contribution(x)

    def _contribution(self, x: Tensor) -> Tensor:
        return sum_event(logsigmoid(x), event_dims(self.shape_in))
