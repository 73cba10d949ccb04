"""How parameters move by the gradients of a captured step of SVI: the caller's optimizer, by its fused kernels."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.capture import Update
from ppl_vae.inference.accumulated import Zeros

_is_there = functools.partial(operator.is_not, None)
Grads = list[Tensor | None]


class SVIUpdate:
    """The update that belongs to one captured forward.

    Attributes:
        fused: the optimizers' kernels for what moves; None where the optimizers themselves must be called.
        resting: leaves that the optimizers hold too, and that nothing has moved yet.
    """

    def __init__(self) -> None:
        self.fused: Update | None = None
        self.resting: list[Tensor] = []
        self._moved: list[Tensor] = []  # those among the leaves that the optimizer gets
        self._optimizers: list[Any] = []
        self._zeros = Zeros([])

    def __call__(self, optim: PyroOptim, leaves: list[Tensor], grads: Grads) -> None:
        """Move the leaves, given a gradient (or None) for each."""
        optimizers = list(optim.optim_objs.values())
        if self.fused is None or optimizers != self._optimizers or self._moves_others(leaves, grads):
            self._moved, self._optimizers = _moved(leaves, grads), optimizers
            self._zeros = Zeros(self._moved)
            self.fused = self._kernels(optim, leaves)
        # A parameter without a gradient here that had one in a step of another kind is moved by zero, as in Pyro.
        pairs = zip(leaves, grads, strict=True)
        given = [g for g in (grad if grad is not None else leaf.grad for leaf, grad in pairs) if g is not None]
        if not self._zeros.hold():
            given = self._zeros.added(given)
        if self.fused is not None and all(leaf.grad is None for leaf in self.resting):
            self.fused(given)
        else:
            self._by_pyro(optim, leaves, given)

    def _by_pyro(self, optim: PyroOptim, leaves: list[Tensor], given: list[Tensor]) -> None:
        before = [leaf.grad for leaf in self._moved]
        for leaf, grad in zip(self._moved, given, strict=True):
            leaf.grad = grad
        optim(leaves)  # those without a gradient too: a scheduled or decaying rate is theirs as well
        for leaf, was in zip(self._moved, before, strict=True):
            leaf.grad = was

    def _moves_others(self, leaves: list[Tensor], grads: Grads) -> bool:
        """Has a leaf come to a gradient, in a step of another kind or by the caller, or lost its own?"""
        if len(self._moved) == len(leaves) and all(map(_is_there, grads)):
            return False
        now = _moved(leaves, grads)
        return len(now) != len(self._moved) or not all(map(operator.is_, now, self._moved))

    def _kernels(self, optim: PyroOptim, leaves: list[Tensor]) -> Update | None:
        found: list[Any] = [optim.optim_objs.get(leaf) for leaf in leaves]
        if optim.pt_clip_args or any(optimizer is None for optimizer in found):
            return None
        every = [getattr(optimizer, "optimizer", optimizer) for optimizer in found]  # a scheduler holds its own
        moved = set(map(id, self._moved))
        pairs = list(zip(leaves, every, strict=True))
        optimizers = [optimizer for leaf, optimizer in pairs if id(leaf) in moved]
        if any(_decays(optimizer) for leaf, optimizer in pairs if id(leaf) not in moved):
            return None
        held = {id(leaf): leaf for optimizer in optimizers for g in optimizer.param_groups for leaf in g["params"]}
        self.resting = [leaf for key, leaf in held.items() if key not in moved]
        return Update(self._moved, optimizers) if Update.refuses(self._moved, optimizers) is None else None


def _moved(leaves: list[Tensor], grads: Grads) -> list[Tensor]:
    return [leaf for leaf, grad in zip(leaves, grads, strict=True) if grad is not None or leaf.grad is not None]


def _decays(optimizer: Any) -> bool:
    """Does a step change its rate, whether or not there is a gradient? ``ClippedAdam`` does."""
    return any(group.get("lrd", 1.0) != 1.0 for group in optimizer.param_groups)


def as_pyro(optim: Any) -> Any:
    """An optimizer as Pyro calls it: with the leaves that are to move."""
    return OneOptimizer(optim) if isinstance(optim, torch.optim.Optimizer) else optim


class OneOptimizer(PyroOptim):
    """A torch optimizer that holds all parameters, where Pyro has one optimizer a parameter."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self._optimizer = optimizer
        self.optim_objs = self._held()

    def _held(self) -> dict[Tensor, Any]:
        return {leaf: self._optimizer for group in self._optimizer.param_groups for leaf in group["params"]}

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Move the leaves that have a gradient."""
        if any(leaf not in self.optim_objs for leaf in params):
            self.optim_objs = self._held()
        foreign = [leaf for leaf in params if leaf not in self.optim_objs]
        if foreign:
            known = private.stored_names(pyro.get_param_store())
            names = ", ".join(str(known.get(leaf, tuple(leaf.shape))) for leaf in foreign)
            raise ValueError(
                f"CompiledSVI: the torch optimizer must hold every parameter of model and guide, but not {names}; run "
                "model and guide once before it is made, or take a pyro.optim optimizer"
            )
        self._optimizer.step()
