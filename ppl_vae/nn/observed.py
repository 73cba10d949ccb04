"""Data with holes: what stands in for the entries that were not observed."""

from __future__ import annotations

import torch
from torch import Tensor


def fill_unobserved(x: Tensor, mask: Tensor | None, *, filler: float = 0.0, who: str = "fill_unobserved") -> Tensor:
    """Put ``filler`` where ``mask`` is False, so that not even a NaN there reaches a network or a density.

    Args:
        x: (N, *event) data.
        mask: (N, *event) boolean, True where an entry is observed; None leaves x as it is.
        filler: a value that the density of an entry supports.
        who: whose error it is.

    Returns:
        (N, *event).

    Raises:
        ValueError: a mask that is not boolean or has another shape than x.

    >>> fill_unobserved(torch.tensor([[1.0, float("nan")]]), torch.tensor([[True, False]]))
    tensor([[1., 0.]])
    """
    if mask is None:
        return x
    if mask.dtype != torch.bool or mask.shape != x.shape:
        raise ValueError(
            f"{who}: the mask must be boolean and {tuple(x.shape)} as x is, got {tuple(mask.shape)} of {mask.dtype}"
        )
    return torch.where(mask, x, filler)
