"""What stands in ``.grad`` between two steps, where Pyro and the caller look for it."""

from __future__ import annotations

import operator

from pyro.infer.util import zero_grads
from torch import Tensor

from ppl_vae._private import version


class Zeros:
    """The gradients that leaves have between two steps: zeros, unless a caller has added up some of their own.

    Args:
        leaves: whose; what their ``.grad`` holds now counts as looked at if it is zero.
    """

    def __init__(self, leaves: list[Tensor]) -> None:
        self._leaves = leaves
        self._look()

    def _look(self) -> None:
        self._grads = [leaf.grad for leaf in self._leaves]
        is_zero = all(grad is None or not bool(grad.any()) for grad in self._grads)
        self._versions = [None if grad is None else version(grad) for grad in self._grads] if is_zero else []

    def hold(self) -> bool:
        """Are they still the same zeros? Cheap."""
        now = [leaf.grad for leaf in self._leaves]
        versions = [None if grad is None else version(grad) for grad in now]
        return all(map(operator.is_, now, self._grads)) and versions == self._versions

    def added(self, grads: list[Tensor]) -> list[Tensor]:
        """These gradients and the caller's, which are zeros again after it, as after Pyro's step."""
        pairs = zip(grads, self._leaves, strict=True)
        sums = [grad if leaf.grad is None or leaf.grad is grad else grad + leaf.grad for grad, leaf in pairs]
        zero_grads(self._leaves)
        self._look()
        return sums


def accumulate(leaves: list[Tensor], grads: list[Tensor | None]) -> None:
    """Add to ``.grad``, as autograd does."""
    for leaf, grad in zip(leaves, grads, strict=True):
        assert grad is not None  # of these leaves alone there are some
        if leaf.grad is None:
            leaf.grad = grad.clone()
        else:
            leaf.grad.add_(grad)
