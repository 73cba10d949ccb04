"""A pair is built from sizes in a file only as far as the weights in the file beside it go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Size, Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Ration", "require_sizes_within"]

SLACK = 1 << 20
"""Numbers that building may take beside the weights."""
_EACH = 256  # numbers that a tensor counts for at the least: many small ones take their time, too
_MAKERS = ("empty", "zeros", "ones", "full", "rand", "randn", "eye", "arange", "linspace")


class Ration(TorchFunctionMode):
    """While this is entered, no more than so many numbers are put into new tensors in this thread.

    Args:
        allowed: how many numbers.

    Raises:
        ValueError: more are asked for; before they are made, where the sizes are in the call.
    """

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self._allowed = self._left = allowed

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what a function makes of nothing."""
        if any(_holds_tensor(value) for value in (*args, *(kwargs or {}).values())):
            return func(*args, **(kwargs or {}))
        asked = _asked(args, kwargs or {}) if getattr(func, "__name__", "") in _MAKERS else 0
        self._take(asked)
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self._take(max(0, found.numel() - asked))
        return found

    def _take(self, count: int) -> None:
        self._left -= max(count, _EACH)
        if self._left < 0:
            raise ValueError(f"the sizes ask for more than the {self._allowed} numbers that the weights allow for")


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_holds_tensor, value)))


def _asked(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The number of elements that a call to a maker of tensors asks for; 0 where it does not say so in this form."""
    size = kwargs.get("size", args[0] if args and isinstance(args[0], tuple | list | Size) else args)
    return math.prod(size) if all(isinstance(length, int) for length in size) else 0


def require_sizes_within(record: Any, allowed: int, where: str = "recipe") -> None:
    """Raise ValueError for a whole number in plain data that no pair with so few weights can have."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            require_sizes_within(value, allowed, f"{where}.{key}")
    elif isinstance(record, list | tuple):
        for i, value in enumerate(record):
            require_sizes_within(value, allowed, f"{where}[{i}]")
    elif isinstance(record, int) and record > allowed:
        raise ValueError(f"{where}: at most {allowed} is possible beside these weights, got {record}")
