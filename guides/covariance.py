"""How unconstrained numbers become a normal distribution: the covariance of a guide."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Covariance:
    """The contract: a normal distribution over z, read from the last axis of unconstrained numbers.

    Standard deviations are ``min_scale + softplus(number)``: smooth, linear and not exponential for large
    numbers, and never 0, however far an encoder goes astray.

    Implementing a new one: a frozen dataclass with :meth:`num_outputs` and :meth:`distribution`; both stay
    pure functions of shapes and numbers. Add it to the table in ``tests/guides/test_covariance.py``.

    Args:
        min_scale: the floor of a standard deviation, in the unit of z.
    """

    min_scale: float = 1e-6

    def num_outputs(self, latent_dim: int) -> int:
        """How many numbers the distribution takes."""
        raise NotImplementedError(f"{type(self).__name__}: a covariance must define num_outputs(latent_dim)")

    def distribution(self, numbers: Tensor, latent_dim: int) -> TorchDistribution:
        """The distribution for numbers (..., num_outputs): batch shape (...), event shape (latent_dim,)."""
        raise NotImplementedError(f"{type(self).__name__}: a covariance must define distribution(numbers, latent_dim)")


@dataclass(frozen=True)
class Diagonal(Covariance):
    """Independent dimensions, 2 L numbers: the means, then the unconstrained standard deviations.

    >>> Diagonal().num_outputs(8)
    16
    """

    def num_outputs(self, latent_dim: int) -> int:
        """2 L."""
        return 2 * latent_dim

    def distribution(self, numbers: Tensor, latent_dim: int) -> TorchDistribution:
        """N(μ, diag(σ²))."""
        loc, raw = numbers.split(latent_dim, -1)
        return dist.Normal(loc, self.min_scale + softplus(raw)).to_event(1)


@dataclass(frozen=True)
class FullCovariance(Covariance):
    """Any covariance, L + L (L + 1) / 2 numbers: the means, then the Cholesky factor.

    Σ = T Tᵀ with T lower triangular: the unconstrained diagonal first, then the entries below it row by row.

    >>> FullCovariance().num_outputs(8)
    44
    """

    def num_outputs(self, latent_dim: int) -> int:
        """L + L (L + 1) / 2."""
        return latent_dim + latent_dim * (latent_dim + 1) // 2

    def distribution(self, numbers: Tensor, latent_dim: int) -> TorchDistribution:
        """N(μ, T Tᵀ)."""
        below = latent_dim * (latent_dim - 1) // 2
        loc, raw, entries = numbers.split([latent_dim, latent_dim, below], -1)
        scale_tril = torch.diag_embed(self.min_scale + softplus(raw)) + _strictly_lower(entries, latent_dim)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


def _strictly_lower(entries: Tensor, size: int) -> Tensor:
    """Lay (..., L (L - 1) / 2) entries out row by row below the diagonal of (..., L, L)."""
    # By gathering, with a zero appended for the rest: assignment through a boolean mask has a shape that
    # depends on data, which a traced step cannot hold.
    padded = torch.cat([entries, entries.new_zeros((*entries.shape[:-1], 1))], -1)
    row = torch.arange(size, device=entries.device).unsqueeze(-1)
    column = row.squeeze(-1)
    position = torch.where(column < row, row * (row - 1) // 2 + column, entries.shape[-1])
    return padded.index_select(-1, position.flatten()).unflatten(-1, (size, size))
