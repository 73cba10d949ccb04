"""A learned mixture prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from ppl_vae.models.priors.base import Prior


class MixtureOfNormals(Prior):
    """p(z) = sum_k π_k N(z; μ_k, diag(σ_k²)), with π, μ and σ learned and the component summed out.

    It only scores and samples: there is no reparametrized sample of a mixture, and a prior needs none.

    Args:
        latent_dim: L, the size of z.
        num_components: K.
        spread: the standard deviation of the means μ_k at the start, drawn from torch's generator: components
            that start in one place would stay together.

    Raises:
        ValueError: latent_dim or num_components < 1, spread < 0.

    >>> MixtureOfNormals(8, num_components=10)().event_shape
    torch.Size([8])
    """

    def __init__(self, latent_dim: int, *, num_components: int, spread: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 1 or num_components < 1 or spread < 0:
            raise ValueError(
                "MixtureOfNormals: latent_dim >= 1, num_components >= 1 and spread >= 0 are required, got "
                f"latent_dim={latent_dim}, num_components={num_components}, spread={spread}"
            )
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(spread * torch.randn(num_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> TorchDistribution:
        """The distribution of one z."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)
