"""Where a chain of transforms is one to one: what comes to each of them must lie in its domain.

torch means by ``bijective`` one to one on the domain, and does not ask whether a distribution keeps to it: ``z ** 2``
folds a normal z, although the power is one to one on the positive numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    IndependentTransform,
    PowerTransform,
    Transform,
)

__all__ = ["stays_in_domains"]


def stays_in_domains(support: Constraint, transforms: Sequence[Transform]) -> bool:
    """Is whatever has this support known to lie in the domain of each transform, one after the other?

    What cannot be compared counts as outside; the edges of an interval have probability 0 and count as inside.

    >>> square = PowerTransform(torch.tensor(2.0))
    >>> stays_in_domains(constraints.real, [square]), stays_in_domains(constraints.positive, [square])
    (False, True)
    """
    for transform in _single(transforms):
        if not _within(support, transform.domain):
            return False
        support = _image(transform, support)
    return True


def _single(transforms: Sequence[Transform]) -> list[Any]:
    found: list[Any] = []
    for transform in transforms:
        while type(transform) is IndependentTransform:
            transform = transform.base_transform
        found += _single(transform.parts) if isinstance(transform, ComposeTransform) else [transform]
    return found


def _within(inner: Any, outer: Any) -> bool:
    """Are the values that keep ``inner`` known to keep ``outer``, but for a null set?"""
    inner, outer = _of_entries(inner), _of_entries(outer)
    if outer is constraints.real:
        return True
    if isinstance(outer, _Parts):
        return all(_within(inner, part) for part in outer.cseq)
    if isinstance(inner, _Parts):
        return all(_within(part, outer) for part in inner.cseq)
    ends, room = _interval(inner), _interval(outer)
    if ends is not None and room is not None:
        return _at_most(room[0], ends[0]) and _at_most(ends[1], room[1])
    return inner is outer or (type(inner) is type(outer) and not vars(inner))


def _image(transform: Any, support: Any) -> Any:
    """Where the transform leads; the interval itself where it is a line or a power, of which torch tells less."""
    ends = _interval(_of_entries(support))
    if type(transform) is dist.transforms.ELUTransform:  # Pyro calls its values positive
        return constraints.greater_than(-1.0)
    if ends is None or type(transform) not in (AffineTransform, PowerTransform):
        return transform.codomain
    a, b = (transform(torch.as_tensor(end)) for end in ends)
    return constraints.interval(torch.minimum(a, b), torch.maximum(a, b))


def _of_entries(constraint: Any) -> Any:
    while type(constraint) is constraints.independent:
        constraint = constraint.base_constraint
    return constraint


def _interval(constraint: Any) -> tuple[Any, Any] | None:
    """The ends of an interval of real numbers."""
    if constraint is constraints.real:
        return -math.inf, math.inf
    low, high = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
    if low is None and high is None:
        return None
    return -math.inf if low is None else low, math.inf if high is None else high


def _at_most(a: Any, b: Any) -> bool:
    found = a <= b
    return bool(found.all()) if isinstance(found, torch.Tensor) else found


_Parts = (constraints.cat, constraints.stack)
