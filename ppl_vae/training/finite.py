"""What must stay finite in a run: parameters, in the space of the optimizer and in their own, and running means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import transform_to
from torch.nn.utils import get_total_norm

__all__ = ["Finite", "all_finite"]


class Finite:
    """Tells which of some tensors has lost its finite numbers; one that never had them is passed over.

    A positive parameter is the exponential of what the optimizer moves: 100 there is infinite here. A running mean may
    be lost while the loss, which does not read it in training, is fine.

    Args:
        leaves: unconstrained parameters by name.
        constraints: of those that have one.
        buffers: by name.
    """

    def __init__(
        self, leaves: Mapping[str, Tensor], constraints: Mapping[str, Any], buffers: Mapping[str, Tensor]
    ) -> None:
        named = {f"the parameter {name!r}": leaf for name, leaf in leaves.items()}
        named |= {f"the buffer {name!r}": buffer for name, buffer in buffers.items()}
        self._plain = {what: t for what, t in named.items() if t.is_floating_point() and all_finite(t)}
        bound = {name: transform_to(constraint) for name, constraint in constraints.items() if name in leaves}
        self._bound = {
            f"the parameter {name.removesuffix('_unconstrained')!r} (under its constraint)": (transform, leaves[name])
            for name, transform in bound.items()
            if all_finite(transform(leaves[name].detach()))
        }

    @torch.no_grad()
    def lost(self) -> str | None:
        """What is not finite now, in words, or None."""
        now = {what: t.detach() for what, t in self._plain.items()}
        now |= {what: transform(leaf.detach()) for what, (transform, leaf) in self._bound.items()}
        if not now or bool(torch.isfinite(get_total_norm(list(now.values()), norm_type=torch.inf))):
            return None
        return next((what for what, t in now.items() if not all_finite(t)), None)


def all_finite(tensor: Tensor) -> bool:
    """Is every entry finite?"""
    return bool(torch.isfinite(tensor.detach()).all())
