"""Event shapes: how a layer is told them, and the sum over an event."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def event_shape(who: str, shape: int | Sequence[int]) -> torch.Size:
    """The shape of one datum, from a size or a shape.

    Raises:
        ValueError: a size below 1.

    >>> event_shape("Abs", 3), event_shape("Abs", (1, 8, 8))
    (torch.Size([3]), torch.Size([1, 8, 8]))
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{who}: every size of an event must be at least 1, got {shape}")
    return torch.Size(sizes)


def event_shape_or_any(who: str, shape: int | Sequence[int] | None) -> torch.Size | None:
    """The same, where None means a vector of any size."""
    return None if shape is None else event_shape(who, shape)


def sum_event(values: Tensor, event_dims: int) -> Tensor:
    """Sum the rightmost ``event_dims`` dimensions: (*leading, *event) to (*leading)."""
    return values.sum(-1) if event_dims == 1 else values.flatten(-event_dims).sum(-1)


def in_words(shape: Sequence[int]) -> str:
    """How an error writes a shape with any leading dimensions: ``(..., 8)``."""
    return f"(..., {', '.join(map(str, shape))})"
