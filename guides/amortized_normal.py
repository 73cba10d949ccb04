"""The variational autoencoder's other half: a network from x to a normal q(z | x)."""

from __future__ import annotations

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.guides.amortized import AmortizedGuide
from ppl_vae.guides.covariance import Covariance, Diagonal
from ppl_vae.nn import fill_unobserved

_DIAGONAL = Diagonal()


class AmortizedNormal(AmortizedGuide):
    """q_φ(z | x) = N(z; μ(x), Σ(x)), with μ and Σ from one network for all data.

    Site "z" in the plate "data" (dim -1), event shape (latent_dim,); reparametrized, z = μ + T ε.

    Args:
        encoder: maps x (N, *event) to (N, covariance.num_outputs(latent_dim)): (N, 2 latent_dim) for
            ``Diagonal``.
        latent_dim: L, the size of z.
        covariance: how the encoder's numbers are read: ``Diagonal()`` or ``FullCovariance()``.

    Raises:
        ValueError: latent_dim < 1; in a call, an encoder output of another shape, a mask that does not fit x,
            or no x.

    Source: D. P. Kingma, M. Welling, "Auto-encoding variational Bayes", 2014.

    >>> import torch
    >>> from ppl_vae.nn import MLP
    >>> guide = AmortizedNormal(MLP(64, 16), latent_dim=8)
    >>> guide.encode(torch.zeros(100, 64)).mean.shape
    torch.Size([100, 8])
    """

    def __init__(self, encoder: nn.Module, *, latent_dim: int, covariance: Covariance = _DIAGONAL) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"AmortizedNormal: latent_dim must be at least 1, got {latent_dim}")
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.covariance = covariance

    def sample_sites(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """Draw z."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.encode(x, mask=mask))

    def encode(self, x: Tensor, *, mask: Tensor | None = None) -> TorchDistribution:
        """The distribution q(z | x).

        Args:
            x: (N, *event) data.
            mask: as in a call.

        Returns:
            A distribution with batch shape (N,) and event shape (latent_dim,).
        """
        numbers = self.encoder(fill_unobserved(x, mask, who="AmortizedNormal"))
        required = self.covariance.num_outputs(self.latent_dim)
        if numbers.shape != (len(x), required):
            raise ValueError(
                f"AmortizedNormal: the encoder must return (..., {required}) "
                f"for latent_dim={self.latent_dim}, got {tuple(numbers.shape)}"
            )
        return self.covariance.distribution(numbers, self.latent_dim)

    def extra_repr(self) -> str:
        """Say the size of z and the covariance."""
        return f"latent_dim={self.latent_dim}, covariance={self.covariance}"
