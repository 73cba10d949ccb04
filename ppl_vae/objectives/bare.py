"""The pair behind an objective that serves as a Pyro loss: found at the first call, and again when it has changed."""

from __future__ import annotations

import types
from collections.abc import Hashable
from typing import Any

import pyro
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.data.rows import Batch
from ppl_vae.pair import Pair
from ppl_vae.pair.calls import shape_key
from ppl_vae.pair.reach import owned_module
from ppl_vae.pair.structure import structure_of

MOST_KINDS = 16
"""Pairs that are kept; where there would be more, whole numbers among the arguments count steps, and make no kinds."""

Leaf = tuple[Tensor, Hashable]
"""A parameter, with where it lies and in what precision."""


class BarePairs:
    """Pairs of one model and guide inside Pyro's own SVI, one a kind of call.

    A look at a pair shows its sites and whose its parameters are. It holds for these very functions and parameters, for
    the parameters that ask for a gradient, and for calls of a kind (which arguments are given, whole numbers by value,
    and shapes but for the number of rows). What else a model branches on shows in the runs: where one has other sites,
    :meth:`anew` looks again. Nothing else is remembered; copies and pickles look anew.
    """

    def __init__(self) -> None:
        self._pairs: dict[Hashable, Pair] = {}
        self._fns: tuple[Any, Any] = (None, None)
        self._leaves: list[Leaf] = []
        self._plate: str | None = None
        self._stored = 0
        self._counts = False  # do whole numbers among the arguments count something, such as steps?

    def of(self, model: Any, guide: Any, batch: Batch) -> tuple[Pair, bool]:
        """The pair of a call, and whether it has just been looked at anew."""
        if not (_is_same(model, self._fns[0]) and _is_same(guide, self._fns[1])):
            self._pairs, self._fns, self._plate = {}, (model, guide), None
        leaves = _leaves(model, guide)
        if not _are_same(leaves, self._leaves):
            self._pairs = {}
        found = self._pairs.get(self._kind(batch, leaves))
        if found is not None:
            found.runner.expected = found.runner.expected or structure_of(found.sites)
            return found, False
        return self._look(model, guide, batch), True

    def anew(self, model: Any, guide: Any, batch: Batch, pair: Pair) -> tuple[Pair, bool]:
        """The pair of a call, looked at once more, and whether it has other sites than ``pair``."""
        found = self._look(model, guide, batch)
        return found, structure_of(found.sites) != structure_of(pair.sites)

    def has_new_leaves(self) -> bool:
        """Has a call made parameters in Pyro's store that the latest look has not shown?"""
        return len(private.stored(pyro.get_param_store())) != self._stored

    def _look(self, model: Any, guide: Any, batch: Batch) -> Pair:
        pair = Pair.bare(model, guide, batch, data_plate=self._plate)
        if self._plate is not None and pair.layout.axis is None:  # it has another name now
            pair = Pair.bare(model, guide, batch)
            self._plate = None
        leaves = _leaves(model, guide)  # a first run makes them
        self._stored = len(private.stored(pyro.get_param_store()))
        if not _are_same(leaves, self._leaves):
            self._pairs, self._leaves = {}, leaves
        self._plate = self._plate or pair.data_plate
        if len(self._pairs) >= MOST_KINDS:
            self._pairs, self._counts = {}, True
        self._pairs[self._kind(batch, leaves)] = pair
        return pair

    def _kind(self, batch: Batch, leaves: list[Leaf]) -> Hashable:
        """What a look depends on besides: without a data plate, which is told by its size, the number of rows too."""
        trained = tuple(leaf.requires_grad for leaf, _ in leaves)
        every = (*batch.args, *(value for _, value in sorted(batch.kwargs.items())))
        numbers = () if self._counts else tuple(value for value in every if isinstance(value, int))
        return shape_key(batch), numbers, trained, batch.size if self._plate is None else None

    def __getstate__(self) -> dict[str, Any]:
        return BarePairs().__dict__


def _leaves(model: Any, guide: Any) -> list[Leaf]:
    """Every parameter that a look can find: those of Pyro's store, and of the modules that are called."""
    modules = filter(None, (owned_module(model), owned_module(guide)))
    found = [*(p for module in modules for p in module.parameters()), *private.stored(pyro.get_param_store()).values()]
    once = {id(leaf): leaf for leaf in found}  # a module's may stand in the store too, from its first run on
    return [(leaf, (leaf.dtype, leaf.device)) for leaf in once.values()]


def _are_same(some: list[Leaf], others: list[Leaf]) -> bool:
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(a is b and form == other for (a, form), (b, other) in pairs)


def _is_same(fn: Any, other: Any) -> bool:
    """The same object, or the same method of it: methods are bound anew at each access. Equality is not asked."""
    if isinstance(fn, types.MethodType) and isinstance(other, types.MethodType):
        return fn.__self__ is other.__self__ and fn.__func__ is other.__func__
    return fn is other
