"""The oracle of this folder: x = W z + mu + eps; log p(x), the posterior and every KL have closed forms."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.pair import Pair

LATENT, OBSERVED, NOISE = 2, 3, 0.8


class LinearGaussian:
    """A model of x (N, 3) by z (N, 2), and guides at a known distance from its posterior."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.dtype = dtype
        self.W = torch.randn(OBSERVED, LATENT, generator=generator, dtype=torch.float64).to(dtype)
        self.mu = torch.randn(OBSERVED, generator=generator, dtype=torch.float64).to(dtype)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T + self.mu, NOISE).to_event(1), obs=x)

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | x), batch (N,)."""
        eye = torch.eye(LATENT, dtype=self.dtype)
        covariance = torch.linalg.inv(eye + self.W.T @ self.W / NOISE**2)
        return dist.MultivariateNormal((x - self.mu) @ self.W @ covariance / NOISE**2, covariance)

    def proposal(self, x: Tensor, shift: float, widen: float) -> dist.MultivariateNormal:
        """The posterior moved by ``shift`` and its sd times ``widen``."""
        exact = self.posterior(x)
        return dist.MultivariateNormal(exact.loc + shift, scale_tril=widen * exact.scale_tril)

    def guide(self, shift: float = 0.0, widen: float = 1.0):
        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.proposal(x, shift, widen))

        return guide

    def pair(self, shift: float = 0.0, widen: float = 1.0) -> Pair:
        return Pair(self.model, self.guide(shift, widen), dtype=self.dtype)

    def log_marginal(self, x: Tensor) -> Tensor:
        covariance = self.W @ self.W.T + NOISE**2 * torch.eye(OBSERVED, dtype=self.dtype)
        return dist.MultivariateNormal(self.mu, covariance).log_prob(x)

    def pieces(self, x: Tensor, shift: float, widen: float) -> dict[str, Tensor]:
        """Reconstruction, KL and gap of that guide, exactly, (N,) nats."""
        q = self.proposal(x, shift, widen)
        prior = dist.MultivariateNormal(torch.zeros(LATENT, dtype=self.dtype), torch.eye(LATENT, dtype=self.dtype))
        mean = dist.Normal(q.loc @ self.W.T + self.mu, NOISE).log_prob(x).sum(-1)
        scatter = torch.einsum("dl,nlm,dm->n", self.W, q.covariance_matrix.expand(len(x), -1, -1), self.W)
        kl, gap = (torch.distributions.kl_divergence(q, other) for other in (prior, self.posterior(x)))
        reconstruction = mean - scatter / (2 * NOISE**2)
        return {"reconstruction": reconstruction, "kl": kl, "gap": gap, "elbo": reconstruction - kl}

    def data(self, num: int, seed: int = 0) -> Tensor:
        """Draws of the model itself."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(num, LATENT, generator=generator, dtype=torch.float64).to(self.dtype)
        noise = torch.randn(num, OBSERVED, generator=generator, dtype=torch.float64).to(self.dtype)
        return z @ self.W.T + self.mu + NOISE * noise


def z_score(values: Tensor) -> float:
    """The mean of independent replicates in units of its standard error."""
    return float(values.mean() / (values.std() / len(values) ** 0.5))
