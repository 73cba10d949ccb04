"""The law of a draw of a guide: where normal noise puts it, its density, and the maps that carry it on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from ppl_vae.distributions import OfNoise
from ppl_vae.pair.support import log_det

__all__ = ["FlowLaw", "Law"]

_NORMALS = (Normal, torch.distributions.Normal)
_FULL = (MultivariateNormal, torch.distributions.MultivariateNormal)
_LOW_RANK = (LowRankMultivariateNormal, torch.distributions.LowRankMultivariateNormal)


@dataclass(frozen=True)
class Law:
    """The normal law of one site's u in a run, and the maps from u to its value.

    Attributes:
        base: a Normal, MultivariateNormal or LowRankMultivariateNormal.
        transforms: from u to the value, in order.
        shape: of u; (S, ...) in a run of S draws.
        event_dim: of the value.
        lead: 1 in a run of S draws, else 0: how many axes of the shape are of draws.
    """

    base: Any
    transforms: tuple[Any, ...]
    shape: torch.Size
    event_dim: int
    lead: int

    @classmethod
    def of(cls, fn: Any, *, lead: int = 0) -> Law | None:
        """Read it off a distribution; None where it is no normal one, or carried by maps with parameters.

        A flow of normal noise that is a distribution of its own (:class:`~ppl_vae.distributions.OfNoise`) has a
        :class:`FlowLaw`.
        """
        event_dim = len(fn.event_shape)
        transforms: list[Any] = []
        while isinstance(fn, Independent | TransformedDistribution):
            if isinstance(fn, TransformedDistribution):
                transforms = [*fn.transforms, *transforms]
            fn = fn.base_dist
        shape = fn.batch_shape + fn.event_shape
        if isinstance(fn, OfNoise) and fn.takes_noise:
            return FlowLaw(fn, tuple(transforms), shape, event_dim, lead)
        if type(fn) not in (*_NORMALS, *_FULL, *_LOW_RANK):
            return None
        if any(isinstance(part, torch.nn.Module) or not part.bijective for part in transforms):
            return None
        return cls(fn, tuple(transforms), shape, event_dim, lead)

    @property
    def size(self) -> int:
        """How many numbers one u has."""
        return self.shape[self.lead :].numel()

    @property
    def has_covariance(self) -> bool:
        """Are the entries of u free to be correlated?"""
        return not isinstance(self.base, _NORMALS)

    @property
    def noise_size(self) -> int:
        """How many numbers one draw takes: those of u, and as many more as a low rank has for each vector."""
        if isinstance(self.base, _LOW_RANK):
            rows = self.shape[self.lead : -1].numel()
            return self.size + rows * int(self.base.cov_factor.shape[-1])
        return self.size

    def place(self, noise: Tensor) -> Tensor:
        """U of standard normal noise, (S, noise_size) or (noise_size,)."""
        base = self.base
        if isinstance(base, _NORMALS):
            placed: Tensor = base.loc + base.scale * noise.reshape(self.shape)
            return placed
        if isinstance(base, _FULL):
            spread: Tensor = (base.scale_tril @ noise.reshape(self.shape).unsqueeze(-1)).squeeze(-1)
            return base.loc + spread
        own, shared = noise.split([self.size, self.noise_size - self.size], -1)
        common = (base.cov_factor @ shared.reshape((*self.shape[:-1], -1)).unsqueeze(-1)).squeeze(-1)
        return base.loc + base.cov_diag.sqrt() * own.reshape(self.shape) + common

    def log_q(self, u: Tensor, width: float = 1.0) -> Tensor:
        """The log density of u under the normal with ``width`` times the spread, (S,) or (), nats."""
        if width == 1.0:
            return self._whole(self.base.log_prob(u))
        near = self.base.loc + (u - self.base.loc) / width
        return self._whole(self.base.log_prob(near)) - self.size * math.log(width)

    def value(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The site's value, and log |dt/du| of each draw, (S,) or ()."""
        value, total = u, u.new_zeros(u.shape[: self.lead])
        for transform in self.transforms:
            before, value = value, transform(value)
            total = total + self._whole(log_det(transform, before, value, self.event_dim))
        return value, total

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        """The parameters of the normal: location, and scale, triangle, or factor and diagonal."""
        if isinstance(self.base, _NORMALS):
            return self.base.loc, self.base.scale
        if isinstance(self.base, _FULL):
            return self.base.loc, self.base.scale_tril
        return self.base.loc, self.base.cov_factor, self.base.cov_diag

    @property
    def covariance(self) -> Tensor:
        """Of the numbers of one u, (size, size); a plate's are independent of each other."""
        if not self.has_covariance:
            return torch.diag(self.base.variance.reshape(-1))
        dim = self.base.covariance_matrix.shape[-1]
        return torch.block_diag(*self.base.covariance_matrix.reshape(-1, dim, dim))

    def _whole(self, term: Tensor) -> Tensor:
        """Summed over all but the draws."""
        return term.sum(tuple(range(self.lead, term.dim()))) if term.dim() > self.lead else term


class FlowLaw(Law):
    """The law of a flow of normal noise: the map from noise to u has parameters, and bends.

    Its ``width`` is that of the noise, and ``base`` is the flow's distribution.
    """

    @property
    def has_covariance(self) -> bool:
        """Are the entries of u free to be correlated?"""
        return True

    @property
    def noise_size(self) -> int:
        """How many numbers one draw takes: those of u."""
        return self.size

    def place(self, noise: Tensor) -> Tensor:
        """U of standard normal noise, (S, noise_size) or (noise_size,)."""
        placed: Tensor = self.base.place(noise.reshape(self.shape))
        return placed

    def log_q(self, u: Tensor, width: float = 1.0) -> Tensor:
        """The log density of u under the flow of ``width`` times as wide noise, (S,) or (), nats."""
        base = self.base if width == 1.0 else self.base.widened(width)
        return self._whole(base.log_prob(u))

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        """None: a flow has no location and scale."""
        return ()
