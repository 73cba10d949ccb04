"""The autoregressive layer that is fast to sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ppl_vae.flows.inverse import Inverse
from ppl_vae.flows.masked_autoregressive import MaskedAutoregressive


class InverseAutoregressive(Inverse):
    """x_d = z_d exp(s_d) + t_d,  with s_d and t_d from a masked network of z_1, ..., z_{d-1}; contribution = -sum of s.

    ``MaskedAutoregressive`` turned round: ``decode`` costs one call of the network, ``encode`` D of them. It suits a
    guide, which scores only what it has drawn itself.

    Args:
        dim, hidden, activation, context_dim: as for ``MaskedAutoregressive``.

    Source: D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling, "Improved variational inference
    with inverse autoregressive flow", 2016.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context_dim: int | None = None,
    ) -> None:
        super().__init__(MaskedAutoregressive(dim, hidden=hidden, activation=activation, context_dim=context_dim))
