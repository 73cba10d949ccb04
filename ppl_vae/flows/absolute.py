"""The absolute value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_vae.flows.drawing import call
from ppl_vae.flows.layer import Coded, Layer, event_dims
from ppl_vae.flows.shapes import event_shape_or_any, sum_event


class Abs(Layer):
    """z_d = |x_d|, and back x_d = ± z_d with a drawn sign; contribution = sum of log P(sign of x_d | z).

    With fair signs that is -log 2 a dimension. It is exact for a p(z) on z >= 0; put
    ``Inverse(Softplus())`` behind it to go on to the line. ``Inverse(Abs(...))`` decodes
    x = |z|, with +log 2 a dimension and a lower bound.

    Args:
        shape: the size or event shape; None for vectors of any size.
        sign: maps z, and a context if there is one, to the log odds of a plus for each number, in the shape of z;
            None for fair signs. ``Inverse`` of a layer with learned signs is not ``reparametrized_encode``.
        context_dim: the size of a context that ``sign`` takes.

    Raises:
        ValueError: a context without a module to take it; in a call, log odds of another shape.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.

    >>> Abs(3).encode(torch.tensor([1.0, -2.0, 3.0]))
    (tensor([1., 2., 3.]), tensor(-2.0794))
    """

    deterministic_decode = False
    codomain = constraints.nonnegative

    def __init__(
        self,
        shape: int | Sequence[int] | None = None,
        *,
        sign: nn.Module | None = None,
        context_dim: int | None = None,
    ) -> None:
        if sign is None and context_dim is not None:
            raise ValueError(f"Abs: fair signs take no context, got context_dim={context_dim}; give it sign=")
        event = event_shape_or_any("Abs", shape)
        super().__init__(event, event, context_dim=context_dim)
        self.sign = sign
        self.reparametrized_decode = sign is None

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        z = x.abs()
        return z, self._log_prob(x >= 0, z, self._log_odds(z, context))

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        log_odds = self._log_odds(z, context)
        chance = 0.5 if log_odds is None else log_odds.sigmoid()
        plus = torch.rand_like(z) < chance
        return torch.where(plus, z, -z), self._log_prob(plus, z, log_odds)

    def _log_odds(self, z: Tensor, context: Tensor | None) -> Tensor | None:
        if self.sign is None:
            return None
        log_odds = call(self.sign, z, context)
        if log_odds.shape != z.shape:
            raise ValueError(f"Abs: sign must return {tuple(z.shape)}, got {tuple(log_odds.shape)}")
        return log_odds

    def _log_prob(self, plus: Tensor, z: Tensor, log_odds: Tensor | None) -> Tensor:
        if log_odds is None:
            leading = self._leading(z, self.shape_out)
            return z.new_full(leading, -math.log(2) * z.shape[len(leading) :].numel())
        return sum_event(logsigmoid(torch.where(plus, log_odds, -log_odds)), event_dims(self.shape_out))
