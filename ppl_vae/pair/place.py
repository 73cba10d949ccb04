"""Where a pair is run, and in what precision: what a person asks for, and whether this machine has it."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["place_of", "precision_of"]


def place_of(device: Any) -> torch.device:
    """A device of torch's that is here and holds numbers.

    Raises:
        ValueError: there is no such kind of device, or none here.

    >>> place_of("cpu")
    device(type='cpu')
    """
    try:
        place = torch.device(device)
        if place.type != "cpu":
            torch.zeros((), device=place).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        said = str(error).partition(". ")[0].splitlines()[0]
        here = "there is one" if torch.cuda.is_available() else "none is found here: torch.cuda.is_available() is False"
        raise ValueError(
            f"device: 'cpu', 'cuda', 'cuda:0', ... or a torch.device is required, got {device!r} "
            f"({said}); VariationalEM's default 'auto' takes a GPU where torch finds one, and "
            f"{here}"
        ) from None
    return place


def precision_of(dtype: Any) -> torch.dtype | None:
    """A precision of torch's, or None for that of the modules.

    Raises:
        TypeError: it is none.
    """
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    raise TypeError(f"dtype: a floating precision such as torch.float32 or torch.float64 is required, got {dtype!r}")
