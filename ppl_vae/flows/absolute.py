"""The absolute value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import logsigmoid

from ppl_vae.flows.domains import Box
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
        entries: the positions of a vector that are folded; all by default. The others stay as they are.
        sign: maps z, and a context if there is one, to the log odds of a plus for each number that is folded, in the
            shape of z, or (..., len(entries)); None for fair signs. ``Inverse`` of a layer with learned signs is not
            ``reparametrized_encode``.
        context_dim: the size of a context that ``sign`` takes.

    Raises:
        ValueError: entries that no vector of the stated size has, or twice the same; a context without a module to
            take it; in a call, log odds of another shape.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.

    >>> Abs(3).encode(torch.tensor([1.0, -2.0, 3.0]))
    (tensor([1., 2., 3.]), tensor(-2.0794))
    >>> Abs(3, entries=[1]).encode(torch.tensor([-1.0, -2.0, 3.0]))
    (tensor([-1.,  2.,  3.]), tensor(-0.6931))
    """

    deterministic_decode = False
    codomain: Constraint = constraints.nonnegative
    order: Tensor | None
    folded: Tensor | None

    def __init__(
        self,
        shape: int | Sequence[int] | None = None,
        *,
        entries: Sequence[int] | None = None,
        sign: nn.Module | None = None,
        context_dim: int | None = None,
    ) -> None:
        if sign is None and context_dim is not None:
            raise ValueError(f"Abs: fair signs take no context, got context_dim={context_dim}; give it sign=")
        event = event_shape_or_any("Abs", shape)
        super().__init__(event, event, context_dim=context_dim)
        self.sign = sign
        self.reparametrized_decode = sign is None
        self._fold(entries)

    def _fold(self, entries: Sequence[int] | None) -> None:
        """Remember which entries are folded, and where z lives then."""
        order = folded = None
        if entries is not None:
            _check_entries(entries, self.shape_in)
            order = torch.tensor(list(entries))
            folded = torch.zeros(self.shape_in or (), dtype=torch.bool).index_fill(0, order, True)
            low = tuple(0.0 if fold else -math.inf for fold in folded.tolist())
            self.codomain = Box(low, (math.inf,) * len(low))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("folded", folded, persistent=False)

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        z = x.abs() if self.folded is None else torch.where(self.folded, x.abs(), x)
        return z, self._log_prob(self._of_folded(x >= 0), z, self._log_odds(z, context))

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        log_odds, of = self._log_odds(z, context), self._of_folded(z)
        chance = 0.5 if log_odds is None else log_odds.sigmoid()
        plus = torch.rand_like(of) < chance
        signed = torch.where(plus, of, -of)
        x = signed if self.order is None else z.index_copy(-1, self.order, signed)
        return x, self._log_prob(plus, z, log_odds)

    def _of_folded(self, value: Tensor) -> Tensor:
        return value if self.order is None else value.index_select(-1, self.order)

    def _log_odds(self, z: Tensor, context: Tensor | None) -> Tensor | None:
        if self.sign is None:
            return None
        log_odds = call(self.sign, z, context)
        required = self._of_folded(z).shape
        if log_odds.shape != required:
            raise ValueError(f"Abs: sign must return {tuple(required)}, got {tuple(log_odds.shape)}")
        return log_odds

    def _log_prob(self, plus: Tensor, z: Tensor, log_odds: Tensor | None) -> Tensor:
        if log_odds is None:
            leading = self._leading(z, self.shape_out)
            return z.new_full(leading, -math.log(2) * plus.shape[len(leading) :].numel())
        return sum_event(logsigmoid(torch.where(plus, log_odds, -log_odds)), event_dims(self.shape_out))


def _check_entries(entries: Sequence[int], shape: torch.Size | None) -> None:
    if shape is None or len(shape) != 1:
        raise ValueError(f"Abs: entries are of vectors of a known size, got shape={shape and tuple(shape)}")
    if not entries or len({*entries}) < len(entries) or not all(0 <= entry < shape[0] for entry in entries):
        raise ValueError(f"Abs: entries must be different positions from 0 to {shape[0] - 1}, got {list(entries)}")
