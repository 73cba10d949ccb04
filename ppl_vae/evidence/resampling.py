"""Weighted draws become plain ones."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["systematic"]


def systematic(weights: Tensor, count: int, offset: Tensor) -> Tensor:
    """The numbers of ``count`` draws, a draw of weight w count w times, rounded up or down; ascending.

    Args:
        weights: (..., S), of sum 1.
        count: how many.
        offset: (..., 1), uniform from 0 to 1.

    Returns:
        (..., count) long.

    James Carpenter, Peter Clifford, Paul Fearnhead: "Improved particle filter for nonlinear problems", 1999.

    >>> systematic(torch.tensor([0.5, 0.0, 0.5]), 4, torch.tensor([0.3]))
    tensor([0, 0, 2, 2])
    """
    points = (torch.arange(count, dtype=weights.dtype, device=weights.device) + offset) / count
    found = torch.searchsorted(weights.cumsum(-1).contiguous(), points.contiguous(), right=True)
    return found.clamp_max(weights.shape[-1] - 1)
