"""The variational autoencoder's generative half."""

from __future__ import annotations

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.models.decoding import given, observation, require_prior
from ppl_vae.models.likelihoods import Likelihood, make_likelihood
from ppl_vae.models.model import Model
from ppl_vae.models.priors import StandardNormal
from ppl_vae.nn import apply_batched


class VAE(Model):
    """A latent variable model with a network between z and x: z ~ p(z), x ~ p(x | decoder(z)).

    ``log p_θ(x, z) = log p(z) + log p(x | decoder(z))``, for each datum on its own.

    Sites, in the plate "data" (dim -1): "z" with event shape (latent_dim,), and "x" whose event shape is what
    the likelihood reads off the decoder's output. Whatever stands left of the datum (particles, enumeration)
    is flattened around the decoder call, so any module serves, convolutions included.

    Args:
        decoder: maps (B, latent_dim) to (B, *event), or to (B, *event, p) for a likelihood of p numbers
            per entry.
        latent_dim: L, the size of z.
        likelihood: p(x | z), a name from ``ppl_vae.models.likelihoods.REGISTRY`` ("bernoulli", "normal", ...)
            or an object.
        prior: p(z), a module that returns a distribution with event shape (latent_dim,); N(0, I) by default.

    Raises:
        ValueError: an unknown likelihood, a prior of another shape; in a call, a decoder output that does not
            fit x, a mask that does not, or neither x nor num_samples.

    Source: D. P. Kingma, M. Welling, "Auto-encoding variational Bayes", 2014.

    >>> import torch
    >>> from ppl_vae.nn import MLP
    >>> model = VAE(MLP(8, 64), latent_dim=8, likelihood="bernoulli")
    >>> model(num_samples=16).shape
    torch.Size([16, 64])
    """

    def __init__(
        self,
        decoder: nn.Module,
        *,
        latent_dim: int,
        likelihood: str | Likelihood,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.decoder = decoder
        self.likelihood = make_likelihood(likelihood)
        self.prior = StandardNormal(latent_dim) if prior is None else prior
        require_prior(self.prior(), self.latent_dim, who=type(self).__name__)

    def sample_sites(self, x: Tensor | None, y: Tensor | None, mask: Tensor | None, size: int) -> Tensor:
        """Draw z, then x."""
        x = given(x, mask, self.likelihood, who=type(self).__name__)
        with pyro.plate("data", size, dim=-1):
            z = pyro.sample("z", self.prior())
            p_x = self.decode(z, mask=None if x is None else mask, x_shape=None if x is None else x.shape)
            return pyro.sample("x", p_x, obs=x)

    def decode(
        self, z: Tensor, *, mask: Tensor | None = None, x_shape: tuple[int, ...] | None = None
    ) -> TorchDistribution:
        """The distribution p(x | z).

        Args:
            z: (..., latent_dim).
            mask: boolean, broadcastable to (..., *event): True where an entry counts.
            x_shape: the shape (N, *event) of the data that the result must score.

        Returns:
            A distribution with batch shape (...) and event shape (*event); its ``mean`` is E[x | z].

        Raises:
            ValueError: the decoder's output does not fit the likelihood, or x.
        """
        output = apply_batched(self.decoder, z)
        return observation(output, z.dim() - 1, self.likelihood, mask=mask, x_shape=x_shape, who=type(self).__name__)

    def extra_repr(self) -> str:
        """Say the size of z."""
        return f"latent_dim={self.latent_dim}"
