"""log q(z | x) as a function of z alone: the parameters of the guide held constant, the path through z kept."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
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


def detached(part: Any) -> Any:
    """A copy of a distribution (or transform) whose tensors carry no gradient.

    Transforms that are modules keep their parameters; evaluate them under :func:`frozen`.
    """
    if isinstance(part, Tensor):
        return part.detach()
    if isinstance(part, (list, tuple)) and any(isinstance(p, (Tensor, Distribution, Transform)) for p in part):
        return type(part)(detached(p) for p in part)
    if not isinstance(part, (Distribution, Transform)):
        return part
    twin = copy.copy(part)
    for name, value in vars(part).items():
        if name.startswith("_cached"):  # what a transform remembers of its last call still has a graph
            twin.__dict__[name] = (None, None) if isinstance(value, tuple) else None
        else:
            twin.__dict__[name] = detached(value)
    return twin
