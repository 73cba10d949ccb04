"""The additive coupling layer of NICE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ppl_vae.flows.coupling import HALF, Coupling
from ppl_vae.flows.layer import Coded
from ppl_vae.flows.masks import Mask


class AdditiveCoupling(Coupling):
    """z_moved = x_moved + t,  with t from a network of x_kept; contribution = 0: the volume stays.

    Args:
        dim: D, the size of x and of z, at least 2.
        mask, hidden, activation, context_dim: as for ``AffineCoupling``.

    Raises:
        ValueError: a dim that leaves nothing to keep or to move.

    Source: L. Dinh, D. Krueger, Y. Bengio, "NICE: non-linear independent components estimation", 2015.
    """

    def __init__(
        self,
        dim: int,
        *,
        mask: Mask = HALF,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context_dim: int | None = None,
    ) -> None:
        super().__init__(dim, num_params=1, mask=mask, hidden=hidden, activation=activation, context_dim=context_dim)

    def _move(self, value: Tensor, params: Tensor) -> Coded:
        return value + params, value.new_zeros(value.shape[:-1])

    def _move_back(self, value: Tensor, params: Tensor) -> Coded:
        return value - params, value.new_zeros(value.shape[:-1])
