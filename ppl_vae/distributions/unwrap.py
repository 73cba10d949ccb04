"""What stands inside a distribution's wrappers (``to_event``, ``mask``, ``expand``, transforms)."""

from __future__ import annotations

from typing import Any

from pyro.distributions import MaskedDistribution
from torch.distributions import Independent

__all__ = ["unwrap", "without_mask"]


def unwrap(fn: Any, until: type | tuple[type, ...] = ()) -> Any:
    """The innermost distribution, or the first from outside that is one of ``until``.

    >>> import pyro.distributions as dist
    >>> type(unwrap(dist.Normal(0.0, 1.0).expand([3]).mask(False).to_event(1))).__name__
    'Normal'
    """
    while hasattr(fn, "base_dist") and not isinstance(fn, until):
        fn = fn.base_dist
    return fn


def without_mask(fn: Any) -> Any:
    """The distribution without the masks around it, under ``to_event`` too: a mask takes a term away, and no
    probability.

    >>> import pyro.distributions as dist
    >>> without_mask(dist.Normal(0.0, 1.0).expand([3]).mask(False).to_event(1))
    Independent(Normal(loc: torch.Size([3]), scale: torch.Size([3])), 1)
    """
    while isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, Independent) and (base := without_mask(fn.base_dist)) is not fn.base_dist:
        return base.to_event(fn.reinterpreted_batch_ndims)
    return fn
