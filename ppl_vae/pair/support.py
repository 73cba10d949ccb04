"""From a site's support to all real numbers and back, with the volume that this changes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import biject_to


def unconstrained(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """U with value = t(u) for the bijection t onto the support of ``fn``, and log |dt/du| summed over the event.

    Raises:
        ValueError: for a discrete support.
    """
    support = fn.support
    if support.is_discrete:
        raise ValueError(f"unconstrain: a continuous support is required, got {support}")
    transform = biject_to(support)
    u = transform.inv(value)
    return u, log_det(transform, u, value, len(fn.event_shape))


def log_det(transform: Any, u: Tensor, value: Tensor, event_dim: int) -> Tensor:
    """Log |dt/du| summed over an event of so many dimensions."""
    found: Tensor = transform.log_abs_det_jacobian(u, value)
    rank = value.dim() - event_dim  # what is left are event dimensions on which t acts one by one
    return found.flatten(rank).sum(-1) if found.dim() > rank else found
