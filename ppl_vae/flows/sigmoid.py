"""Between the line and the unit interval."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.flows.domains import OpenUnitInterval, held_in_unit_interval
from ppl_vae.flows.inverse import Inverse
from ppl_vae.flows.layer import Coded, Layer, event_dims
from ppl_vae.flows.shapes import event_shape_or_any, sum_event


class Sigmoid(Layer):
    """z_d = 1 / (1 + exp(-x_d)), in (0, 1); contribution = sum of log z_d (1 - z_d).

    The contribution is exact for every x. z itself rounds to 1 beyond x = 16 in float32 (37 in float64), and to 0 below
    -103 (-745): the last number inside the interval stands for it, so that ``decode`` takes what ``encode`` gives, with
    the contribution that belongs to this z. ``decode`` loses exp(|x|) times the precision.

    Args:
        shape: the size or event shape; None for vectors of any size.
    """

    codomain = OpenUnitInterval()

    def __init__(self, shape: int | Sequence[int] | None = None) -> None:
        event = event_shape_or_any(type(self).__name__, shape)
        super().__init__(event, event)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return held_in_unit_interval(x.sigmoid()), self._contribution(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        x = z.log() - (-z).log1p()
        return x, self._contribution(x)

    def _contribution(self, x: Tensor) -> Tensor:
        return sum_event(logsigmoid(x) + logsigmoid(-x), event_dims(self.shape_in))


class Logit(Inverse):
    """z_d = log x_d - log(1 - x_d), for x in (0, 1); contribution = -sum of log x_d (1 - x_d).

    Args:
        shape: the size or event shape; None for vectors of any size.
    """

    def __init__(self, shape: int | Sequence[int] | None = None) -> None:
        super().__init__(Sigmoid(shape))
