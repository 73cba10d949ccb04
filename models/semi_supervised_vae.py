"""A VAE with a class label that is known for some data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions import one_hot
from ppl_vae.models.decoding import given, observation, require_prior
from ppl_vae.models.labels import sample_labels
from ppl_vae.models.likelihoods import Likelihood, make_likelihood
from ppl_vae.models.model import Model
from ppl_vae.models.priors import StandardNormal
from ppl_vae.nn import apply_batched


class SemiSupervisedVAE(Model):
    """The M2 model: a label y and a style z, x from both: y ~ p(y), z ~ p(z), x ~ p(x | decoder(y, z)).

    ``log p_θ(x, y, z) = log p(y) + log p(z) + log p(x | decoder(y, z))``, for each datum on its own.

    Sites, in the plate "data" (dim -1): "y", the latent label, and "label", the observed one, each masked in the rows
    of the other (without y there is no "label"); "z" with event shape (latent_dim,); "x". Labels and ``num_samples``
    without x draw x given its class.

    Args:
        decoder: maps (B, K + L), the one-hot label and then z, to (B, *event), or to (B, *event, p) for a likelihood of
            p numbers per entry.
        num_classes: K.
        latent_dim: L, the size of z.
        likelihood: p(x | y, z), a name from ``ppl_vae.models.likelihoods.REGISTRY`` or an object.
        prior: p(z), a module that returns a distribution with event shape (latent_dim,); N(0, I) by default.
        class_prior: p(y), (K,) probabilities; uniform by default.

    Raises:
        ValueError: K < 2, a prior of another shape, an unknown likelihood; in a call, y that is not (N,) long, labels
            outside -1 .. K - 1 (under Pyro's validation), a decoder output that does not fit x.

    Source: D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised learning with deep generative models",
    2014.

    >>> from ppl_vae.nn import MLP
    >>> model = SemiSupervisedVAE(MLP(10 + 8, 64), num_classes=10, latent_dim=8, likelihood="bernoulli")
    >>> model(num_samples=16, y=torch.full((16,), 3)).shape
    torch.Size([16, 64])
    """

    class_probs: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        *,
        num_classes: int,
        latent_dim: int,
        likelihood: str | Likelihood,
        prior: nn.Module | None = None,
        class_prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"SemiSupervisedVAE: num_classes must be at least 2, got {num_classes}")
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.decoder = decoder
        self.likelihood = make_likelihood(likelihood)
        self.prior = StandardNormal(latent_dim) if prior is None else prior
        probs = torch.full((num_classes,), 1 / num_classes) if class_prior is None else class_prior
        if probs.shape != (num_classes,) or not (probs > 0).all():
            raise ValueError(
                f"SemiSupervisedVAE: class_prior must be ({num_classes},) positive probabilities, got {class_prior}"
            )
        # Not in the state_dict: an argument, as the sizes are.
        self.register_buffer("class_probs", probs / probs.sum(), persistent=False)
        require_prior(self.prior(), self.latent_dim, who=type(self).__name__)

    def sample_sites(self, x: Tensor | None, y: Tensor | None, mask: Tensor | None, size: int) -> Tensor:
        """Draw y where it is latent, z, then x."""
        x = given(x, mask, self.likelihood, who=type(self).__name__)
        with pyro.plate("data", size, dim=-1):
            label = sample_labels(dist.Categorical(self.class_probs), y, size=size, who="SemiSupervisedVAE")
            z = pyro.sample("z", self.prior())
            p_x = self.decode(label, z, mask=None if x is None else mask, x_shape=None if x is None else x.shape)
            return pyro.sample("x", p_x, obs=x)

    def decode(
        self, y: Tensor, z: Tensor, *, mask: Tensor | None = None, x_shape: tuple[int, ...] | None = None
    ) -> TorchDistribution:
        """The distribution p(x | y, z).

        Args:
            y: (...) long labels.
            z: (..., L); its leading dimensions and those of y are broadcast.
            mask: boolean, broadcastable to (..., *event): True where an entry counts.
            x_shape: the shape (N, *event) of the data that the result must score.

        Returns:
            A distribution with batch shape (...) and event shape (*event); its ``mean`` is E[x | y, z].

        Raises:
            ValueError: the decoder's output does not fit the likelihood, or x.
        """
        batch = torch.broadcast_shapes(y.shape, z.shape[:-1])
        labels = one_hot(y, self.num_classes, dtype=z.dtype)
        inputs = torch.cat([labels.expand(*batch, -1), z.expand(*batch, -1)], -1)
        output = apply_batched(self.decoder, inputs)
        return observation(output, len(batch), self.likelihood, mask=mask, x_shape=x_shape, who="SemiSupervisedVAE")

    def extra_repr(self) -> str:
        """Say the number of classes and the size of z."""
        return f"num_classes={self.num_classes}, latent_dim={self.latent_dim}"
