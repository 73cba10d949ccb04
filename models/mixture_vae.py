"""A VAE whose latent space has clusters."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.models.decoding import given
from ppl_vae.models.likelihoods import Likelihood
from ppl_vae.models.priors import MixtureOfNormals
from ppl_vae.models.vae import VAE


class MixtureVAE(VAE):
    """A VAE with the component of z as a latent of its own: c ~ Cat(π), z | c ~ N(μ_c, diag(σ_c²)), x ~ p(x | z).

    ``log p_θ(x, z, c) = log π_c + log N(z; μ_c, diag(σ_c²)) + log p(x | decoder(z))``.

    Sites, in the plate "data" (dim -1): "c" (N,) long, marked for parallel enumeration and in no guide, so that it is
    summed out exactly; "z" and "x" as in :class:`VAE`, so any guide of z serves. Summed out, it is a ``VAE`` with the
    prior ``MixtureOfNormals``; here the clusters can be asked for.

    Args:
        decoder: as in :class:`VAE`.
        latent_dim: L, the size of z.
        num_components: K.
        likelihood: as in :class:`VAE`.
        spread: the standard deviation of the means μ_k at the start, drawn from torch's generator.

    Raises:
        ValueError: as :class:`VAE`; num_components < 2.

    Sources: N. Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
    2016; Z. Jiang et al., "Variational deep embedding", 2017.

    >>> import torch
    >>> from ppl_vae.nn import MLP
    >>> model = MixtureVAE(MLP(8, 64), latent_dim=8, num_components=10, likelihood="bernoulli")
    >>> model.responsibilities(torch.zeros(16, 8)).shape
    torch.Size([16, 10])
    """

    prior: MixtureOfNormals

    def __init__(
        self,
        decoder: nn.Module,
        *,
        latent_dim: int,
        num_components: int,
        likelihood: str | Likelihood,
        spread: float = 1.0,
    ) -> None:
        if num_components < 2:
            raise ValueError(f"MixtureVAE: num_components must be at least 2, got {num_components}")
        prior = MixtureOfNormals(latent_dim, num_components=num_components, spread=spread)
        super().__init__(decoder, latent_dim=latent_dim, likelihood=likelihood, prior=prior)

    def sample_sites(self, x: Tensor | None, y: Tensor | None, mask: Tensor | None, size: int) -> Tensor:
        """Draw c, z, then x."""
        x = given(x, mask, self.likelihood, who=type(self).__name__)
        with pyro.plate("data", size, dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.prior.logits), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.prior.loc[c], self.prior.log_scale[c].exp()).to_event(1))
            p_x = self.decode(z, mask=None if x is None else mask, x_shape=None if x is None else x.shape)
            return pyro.sample("x", p_x, obs=x)

    def responsibilities(self, z: Tensor) -> Tensor:
        """The probabilities p(c | z) of the components by Bayes' rule.

        Args:
            z: (..., L).

        Returns:
            (..., K), each row of sum 1.
        """
        components = dist.Normal(self.prior.loc, self.prior.log_scale.exp()).to_event(1)
        return (self.prior.logits.log_softmax(-1) + components.log_prob(z.unsqueeze(-2))).softmax(-1)
