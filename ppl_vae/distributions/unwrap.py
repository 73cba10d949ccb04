"""What stands inside a distribution's wrappers (``to_event``, ``mask``, ``expand``, transforms)."""

from __future__ import annotations

from typing import Any

from pyro.distributions import MaskedDistribution

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
    """The distribution itself, where a mask is its outermost wrapper: a mask takes a term away, and no probability."""
    while isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    return fn
