"""The default prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ppl_vae.models.priors.base import Prior


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Args:
        latent_dim: L, the size of z.

    Raises:
        ValueError: latent_dim < 1.

    >>> StandardNormal(8)().event_shape
    torch.Size([8])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"StandardNormal: latent_dim must be at least 1, got {latent_dim}")
        # Not in the state_dict: there is nothing to save.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """The distribution of one z."""
        return dist.Normal(self.loc, self.scale).to_event(1)
