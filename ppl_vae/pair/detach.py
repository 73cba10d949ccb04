"""log q(z | x) as a function of z alone: the parameters of the guide held constant, the path through z kept."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform


@contextmanager
def frozen(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Switch ``requires_grad`` off for a while: new graphs do not reach these leaves."""
    active = [leaf for leaf in leaves if leaf.requires_grad]
    for leaf in active:
        leaf.requires_grad_(False)
    try:
        yield
    finally:
        for leaf in active:
            leaf.requires_grad_(True)


def is_plain(fn: Any) -> bool:
    """Is this a distribution of tensors alone, without transforms or modules?"""
    parts = vars(fn).values()
    if any(isinstance(part, Transform | nn.Module) or _holds_transforms(part) for part in parts):
        return False
    return all(is_plain(part) for part in parts if isinstance(part, Distribution))


def _holds_transforms(part: Any) -> bool:
    return isinstance(part, list | tuple) and any(isinstance(p, Transform) for p in part)


def detached(fn: Any) -> Any:
    """A copy of a plain distribution whose tensors carry no gradient."""
    twin = copy.copy(fn)
    for name, value in vars(fn).items():
        if isinstance(value, Tensor):
            twin.__dict__[name] = value.detach()
        elif isinstance(value, Distribution):
            twin.__dict__[name] = detached(value)
    return twin
