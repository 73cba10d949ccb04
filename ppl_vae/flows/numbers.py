"""The parameters of a layer that has few: learned numbers, or a function of the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ppl_vae.flows.small import start_small
from ppl_vae.nn import MLP


class Numbers(nn.Module):
    """n numbers: a learned vector, and on top of it, for a conditional layer, a network of the context.

    numbers = base,  or  base + network(c).

    Args:
        start: (n,) where the base starts.
        context_dim: the size of c; None without a context.
        hidden, activation: of the network.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        context_dim: int | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.base = nn.Parameter(start.clone())
        self.network: nn.Module | None = None
        if context_dim is not None:
            network = MLP(context_dim, len(start), hidden=hidden, activation=activation)
            start_small(network.layers[-1])
            self.network = network

    def forward(self, context: Tensor | None = None) -> Tensor:
        """(n,) without a context; (..., n) for a context (..., context_dim)."""
        return self.base if self.network is None else self.base + self.network(context)
