"""What is captured of a step of Pyro's SVI: ``loss_and_grads``, up to the gradients."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.capture import CaptureError, Result, own_gradients
from ppl_vae.inference.svi_rows import rows_at
from ppl_vae.inference.svi_update import SVIUpdate
from ppl_vae.training.threads import is_small

if TYPE_CHECKING:
    from ppl_vae.inference.compiled_svi import CompiledSVI

_needs_grad = operator.attrgetter("requires_grad")


class SVIForward:
    """``loss_and_grads`` as a function of the call's tensors, which returns the gradients instead of leaving them.

    Args:
        rebuild: puts the tensors into the places of the call's arguments.
        gathers: is the first argument an index, at which the others are to be read?

    Attributes:
        leaves: the parameters that the step announces.
        others: leaves that get gradients, but no site announces them: their gradients add up.
        update: what moves the leaves.
    """

    def __init__(self, svi: CompiledSVI, rebuild: Callable[[Sequence[Tensor]], Any], gathers: bool) -> None:
        self._svi, self._rebuild, self._gathers = svi, rebuild, gathers
        self.leaves: list[Tensor] = []
        self.others: list[Tensor] = []
        self.update = SVIUpdate()
        self._is_small: bool | None = None

    def __call__(self, *tensors: Tensor) -> Result:
        """The losses (float64), and the gradient of each of the leaves and of the others."""
        svi = self._svi
        args, kwargs = self._rebuild(tensors)
        fn = svi.objective.accumulate_grads if svi.objective is not None else svi.loss_and_grads
        known = self.leaves or svi.leaves()
        others = self.others if self.leaves else self._possible_others(known, (args, kwargs))
        with own_gradients([*known, *others]), _kept_store(), poutine.trace(param_only=True) as seen:
            loss = fn(svi.model, svi.guide, *(rows_at(*args) if self._gathers else args), **kwargs)
            self._sort(known, others, leaves_in(seen))
            grads = [leaf.grad for leaf in (*self.leaves, *self.others)]
        losses = loss if isinstance(loss, tuple) else (loss,)
        return [torch.as_tensor(value, dtype=torch.float64).detach() for value in losses], grads

    def _sort(self, known: list[Tensor], others: list[Tensor], announced: set[Tensor]) -> None:
        """Tell the leaves that were announced from the others that got gradients; in later steps, check it."""
        moved = set(map(id, announced))
        if not moved <= set(map(id, known)):
            raise CaptureError("a parameter appears that earlier steps did not have")
        if self.leaves and len(moved) < len(self.leaves):
            raise CaptureError("a parameter of earlier steps is not announced any more")
        if not self.leaves:
            rest = [*(leaf for leaf in known if id(leaf) not in moved), *others]
            self.others = [leaf for leaf in rest if leaf.grad is not None]
        self.leaves = [leaf for leaf in known if id(leaf) in moved]

    def _possible_others(self, known: list[Tensor], arguments: Any) -> list[Tensor]:
        """Leaves that no site has announced: of a network that is no part of the store, or among the arguments."""
        seen = self._svi.engine().watch.leaves()
        found = [*seen, *(a for a in private.tree_leaves(arguments) if isinstance(a, Tensor))]
        if {id(leaf) for leaf in known if has_hooks(leaf)}.difference(map(id, seen)):
            raise CaptureError("a parameter of Pyro's store has a hook, which may do what a graph cannot")
        given = set(map(id, known))
        others = {id(leaf): leaf for leaf in found if leaf.requires_grad and leaf.is_leaf and id(leaf) not in given}
        return list(others.values())

    def is_small(self, inputs: list[Tensor]) -> bool:
        """Is a step better made by one thread? The rule of all steps (``training/threads.py``)."""
        if self._is_small is None:
            svi = self._svi
            rows = max((len(t) for t in inputs[:1] if t.dim()), default=1)
            particles = getattr(getattr(svi.loss_and_grads, "__self__", None), "num_particles", 1)
            self._is_small = is_small(svi.num_weights(), rows * particles, inputs[0].numel() if inputs else 0)
        return self._is_small


def has_hooks(leaf: Tensor) -> bool:
    """Has somebody put a hook on a leaf's gradient?"""
    return bool(private.backward_hooks(leaf) or private.accumulate_hooks(leaf))


def identity() -> tuple[Any, ...]:
    """Which parameters Pyro's store has: one that was cleared has others, of the same names and shapes."""
    leaves = list(private.stored(pyro.get_param_store()).values())
    return tuple(map(id, leaves)), tuple(map(_needs_grad, leaves)), any(map(has_hooks, leaves))


def leaves_in(seen: Any) -> set[Tensor]:
    """The leaves of the parameters that a trace has met."""
    return {site["value"].unconstrained() for site in seen.trace.nodes.values()}


@contextmanager
def _kept_store() -> Iterator[None]:
    """Pyro's decaying-average baseline puts new tensors into the store in every step: no graph would see them."""
    store = pyro.get_param_store()
    leaves, names = private.stored(store), private.stored_names(store)
    before = dict(leaves)
    replaced: list[str] = []
    try:
        yield
    finally:
        replaced = [name for name, leaf in leaves.items() if before.get(name) is not leaf]
        for name in replaced:
            names.pop(leaves.pop(name), None)
            if name in before:
                leaves[name] = before[name]
                names[before[name]] = name
    if replaced:
        raise CaptureError(
            f"a step replaces the parameter {replaced[0]!r} of Pyro's store, as a decaying baseline does"
        )
