"""What all coupling layers have in common: the split, the network, the join."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ppl_vae.flows.conditioner import Conditioner
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.masks import Half, Mask, Partition
from ppl_vae.flows.shapes import event_shape


class Coupling(Layer):
    """Some numbers are kept, and say how the others are moved: z_kept = x_kept, z_moved = f(x_moved; network(x_kept)).

    Both ways cost one call of the network.

    Implementing a new one: subclass, say in ``num_params`` how many parameters a moved number takes, and write
    :meth:`_move` and :meth:`_move_back`.

    Args:
        dim: D, the size of x and of z, at least 2.
        num_params: how many parameters f takes for each number that it moves.
        mask: which numbers are kept.
        hidden: the widths of the network's hidden layers.
        activation: makes its activation.
        context_dim: the size of a context that goes into the network; None for an unconditional layer.

    Raises:
        ValueError: a dim that leaves nothing to keep or to move.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_params: int,
        mask: Mask,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module],
        context_dim: int | None,
    ) -> None:
        shape = event_shape(type(self).__name__, dim)
        super().__init__(shape, shape, context_dim=context_dim)
        self.mask = mask
        self.partition = Partition(mask, dim)
        self.conditioner = Conditioner(
            self.partition.kept,
            num_params * self.partition.moved,
            hidden=hidden,
            activation=activation,
            context_dim=context_dim,
        )

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        kept, moved = self.partition.split(x)
        moved, contribution = self._move(moved, self.conditioner(kept, context))
        return self.partition.join(kept, moved), contribution

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        kept, moved = self.partition.split(z)
        moved, contribution = self._move_back(moved, self.conditioner(kept, context))
        return self.partition.join(kept, moved), contribution

    def _move(self, value: Tensor, params: Tensor) -> Coded:
        """From x_moved (..., M) and parameters (..., num_params M) to z_moved and the contribution (...)."""
        raise NotImplementedError(f"{self.label}: a coupling must define _move(value, params)")

    def _move_back(self, value: Tensor, params: Tensor) -> Coded:
        """From z_moved to x_moved and the same contribution."""
        raise NotImplementedError(f"{self.label}: a coupling must define _move_back(value, params)")

    def extra_repr(self) -> str:
        """Say the mask."""
        return f"mask={self.mask}"


HALF = Half()
