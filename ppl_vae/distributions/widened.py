"""A distribution with its spread multiplied: what a defensive proposal draws from beside the guide."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

__all__ = ["HasWider", "Widened", "widened"]

_NAMES = (
    *("Normal", "Laplace", "StudentT", "Cauchy", "Gumbel", "Logistic", "SoftLaplace", "AsymmetricLaplace"),
    *("MultivariateNormal", "LowRankMultivariateNormal", "MultivariateStudentT"),
)
# By class and not by the attribute `loc`: a von Mises has one, and lives on a circle.
_LOCATION_SCALE = frozenset(
    getattr(room, name) for name in _NAMES for room in (dist, torch.distributions) if hasattr(room, name)
)
_TRANSFORMED = torch.distributions.TransformedDistribution


class HasWider(ABC):
    """A distribution that knows its own wider twin, such as a flow, whose noise is widened."""

    @abstractmethod
    def widened(self, factor: float) -> Any:
        """The same with ``factor`` times the spread, or None where it cannot be had."""


class Widened(TorchDistribution):
    r"""The law of :math:`m + s (z - m)`, z drawn from a location-scale distribution on all real numbers, m its ``loc``.

    .. math:: \log p_s(v) = \log p(m + (v - m) / s) - D \log s

    Args:
        base: the distribution of z, of D numbers an event.
        factor: s > 0.

    >>> wide = Widened(dist.Normal(torch.tensor(1.0), 2.0), 1.5)
    >>> bool(torch.isclose(wide.log_prob(torch.tensor(7.0)), dist.Normal(1.0, 3.0).log_prob(torch.tensor(7.0))))
    True
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: Any, factor: float) -> None:
        self.base, self.factor = base, factor
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Do derivatives pass through a draw?"""
        return bool(self.base.has_rsample)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Constraint:
        """All real numbers."""
        support: Constraint = self.base.support
        return support

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw, with derivatives: (*sample_shape, *batch, *event)."""
        return self._about(self.base.rsample(torch.Size(sample_shape)), self.factor)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The same without."""
        with torch.no_grad():
            return self._about(self.base.sample(torch.Size(sample_shape)), self.factor)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, (*batch) in nats."""
        density: Tensor = self.base.log_prob(self._about(value, 1 / self.factor))
        return density - self.event_shape.numel() * math.log(self.factor)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Widened:
        """Expand the batch."""
        return Widened(self.base.expand(torch.Size(batch_shape)), self.factor)

    def _about(self, value: Tensor, factor: float) -> Tensor:
        return self.base.loc + factor * (value - self.base.loc)


def widened(fn: Any, factor: float) -> Any:
    """The same distribution with ``factor`` times its spread, or None where it has no such twin.

    Location-scale distributions on all real numbers are widened about their location; what stands inside ``to_event``,
    ``expand``, ``mask`` or bijective transforms (a ``LogNormal``: on the log scale) is widened there, so the support
    stays what it is. Of a mixture each component is widened. A point mass, discrete values, and a class that is not
    known have no twin.

    Args:
        fn: a distribution.
        factor: of the spread, positive.

    >>> widened(dist.Normal(torch.zeros(3), 1.0).to_event(1), 1.5).event_shape
    torch.Size([3])
    >>> widened(dist.Bernoulli(0.5), 1.5) is None
    True
    """
    if isinstance(fn, HasWider):
        return fn.widened(factor)
    if type(fn) in _LOCATION_SCALE:
        return Widened(fn, factor)
    if isinstance(fn, ExpandedDistribution | dist.MaskedDistribution) or type(fn) in _INDEPENDENT:
        inner = widened(fn.base_dist, factor)
        return None if inner is None else _around(inner, fn)
    if isinstance(fn, _TRANSFORMED) and _as_transformed(fn):
        inner = widened(fn.base_dist, factor)
        return None if inner is None else dist.TransformedDistribution(inner, fn.transforms, validate_args=False)
    if type(fn) in _MIXTURES:
        inner = widened(fn.component_distribution, factor)
        return None if inner is None else type(fn)(fn.mixture_distribution, inner, validate_args=False)
    return None


_INDEPENDENT = (dist.Independent, torch.distributions.Independent)
_MIXTURES = (dist.MixtureSameFamily, torch.distributions.MixtureSameFamily)


def _around(inner: Any, wrapper: Any) -> Any:
    """The same wrapper around another distribution of the same shapes."""
    twin = copy.copy(wrapper)
    twin.base_dist = inner
    return twin


def _as_transformed(fn: Any) -> bool:
    """Are its draws and densities those of base and bijective transforms, and not some of its own?"""
    own = type(fn)
    plain = all(getattr(own, name) is getattr(_TRANSFORMED, name) for name in ("log_prob", "rsample", "sample"))
    return plain and all(transform.bijective for transform in fn.transforms)
