"""A normal distribution from a network: what surjections and stochastic layers draw from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.flows.conditioner import Conditioner

_UNIT = math.log(math.e - 1)  # softplus of it is 1
_MIN_SCALE = 1e-4


class ConditionalNormal(nn.Module):
    """N(y; μ(h), diag(σ(h)²)), with μ and σ from one network of h, and of a context.

    The layers that draw take any module in its place that is called on ``h``, or on ``h, context`` where the layer is
    conditional, and returns a Pyro distribution.

    Args:
        in_features: the size of h.
        out_features: the size of y.
        hidden, activation: of the network.
        context_dim: the size of a context; None without one.

    >>> import torch
    >>> ConditionalNormal(3, 2)(torch.zeros(100, 3)).event_shape
    torch.Size([2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.network = Conditioner(
            in_features, 2 * out_features, hidden=hidden, activation=activation, context_dim=context_dim
        )

    def forward(self, h: Tensor, context: Tensor | None = None) -> TorchDistribution:
        """The distribution of y: batch shape (*leading), event shape (out_features,)."""
        loc, raw = self.network(h, context).chunk(2, -1)
        return dist.Normal(loc, _MIN_SCALE + softplus(raw + _UNIT)).to_event(1)
