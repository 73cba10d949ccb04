"""The affine coupling layer of RealNVP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppl_vae.flows.coupling import HALF, Coupling
from ppl_vae.flows.layer import Coded
from ppl_vae.flows.masks import Mask

# exp(±3) bounds what one layer may scale by; layers in a chain multiply.
_MAX_LOG_SCALE = 3.0


class AffineCoupling(Coupling):
    """z_moved = x_moved exp(s) + t,  with t and s from a network of x_kept; contribution = sum of s.

    s = 3 tanh(raw): smooth, and no layer scales by more than exp(3), however far its network goes astray.

    Args:
        dim: D, the size of x and of z, at least 2.
        mask: which numbers are kept: ``Half()``, ``Alternate()``, ``Checkerboard(...)``, each with ``swap=True`` too.
        hidden: the widths of the network's hidden layers.
        activation: makes its activation.
        context_dim: the size of a context that goes into the network; None for an unconditional layer.

    Raises:
        ValueError: a dim that leaves nothing to keep or to move.

    Source: L. Dinh, J. Sohl-Dickstein, S. Bengio, "Density estimation using Real NVP", 2017.

    >>> layer = AffineCoupling(8, context_dim=3)
    >>> z, contribution = layer.encode(torch.zeros(100, 8), torch.zeros(100, 3))
    >>> z.shape, contribution.shape
    (torch.Size([100, 8]), torch.Size([100]))
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
        super().__init__(dim, num_params=2, mask=mask, hidden=hidden, activation=activation, context_dim=context_dim)

    def _move(self, value: Tensor, params: Tensor) -> Coded:
        shift, raw = params.chunk(2, -1)
        log_scale = raw.tanh() * _MAX_LOG_SCALE
        return torch.addcmul(shift, value, log_scale.exp()), log_scale.sum(-1)

    def _move_back(self, value: Tensor, params: Tensor) -> Coded:
        shift, raw = params.chunk(2, -1)
        log_scale = raw.tanh() * _MAX_LOG_SCALE
        return (value - shift) * (-log_scale).exp(), log_scale.sum(-1)
