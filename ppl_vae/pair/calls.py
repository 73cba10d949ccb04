"""How a model or a guide is called with a batch: what its signature names, it gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae._private import random_attributes
from ppl_vae.data.rows import Batch

# What the framework itself hands out by name; never taken for a place of the caller's second or third tensor.
_RESERVED = ("index", "num_samples")


def target_of(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What a person wrote: ``forward`` of a module."""
    target: Callable[..., Any] = fn.forward if isinstance(fn, torch.nn.Module) else fn
    return target


def parameters_of(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that a person wrote: those of ``forward`` for a module."""
    try:
        return dict(inspect.signature(target_of(fn)).parameters)
    except (TypeError, ValueError):  # builtins and C functions have no signature
        return {}


def names(fn: Callable[..., Any], argument: str) -> bool:
    """Does the signature name this argument?"""
    return argument in parameters_of(fn)


def _takes_any_keyword(fn: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters_of(fn).values())


class Call:
    """A model or a guide as a function of a :class:`Batch`: what its signature names, it gets.

    Tensors beyond the positional parameters go to the keyword-only ones in order, so that the rows ``(x, y)`` fit
    ``model(x=None, *, y=None)``. ``index`` goes to a signature that names it, and through ``**kwargs`` (an autoguide's)
    to a partner that does.

    Args:
        fn, partner: the model and the guide, or the other way round.
        announced: let a PyroModule tell Pyro's handlers of its parameters, as Pyro's SVI needs.
    """

    def __init__(self, fn: Callable[..., Any], *, partner: Callable[..., Any], announced: bool = False) -> None:
        self.fn = fn
        params = parameters_of(fn).values()
        self._positional = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in params)
        self._variadic = any(p.kind is p.VAR_POSITIONAL for p in params)
        self._extra = [p.name for p in params if p.kind is p.KEYWORD_ONLY and p.name not in _RESERVED]
        self._wants_index = names(fn, "index") or (_takes_any_keyword(fn) and names(partner, "index"))
        self._unannounced = not announced and _can_be_called_as_torch_does(fn)

    def __call__(self, batch: Batch) -> Any:
        """Call it with what the batch holds."""
        args, kwargs = self.arguments(batch)
        return torch.nn.Module.__call__(self.fn, *args, **kwargs) if self._unannounced else self.fn(*args, **kwargs)

    @property
    def target(self) -> Callable[..., Any]:
        """What a person wrote: ``forward`` of a module."""
        return target_of(self.fn)

    def arguments(self, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What it is called with: in order, and by name."""
        args, kwargs = batch.args, dict(batch.kwargs)
        if not self._variadic and len(args) > self._positional:
            kwargs |= dict(zip(self._extra, args[self._positional :], strict=False))
            args = args[: self._positional] + args[self._positional + len(self._extra) :]
        if self._wants_index and batch.index is not None:
            kwargs["index"] = batch.index
        return args, kwargs


def _can_be_called_as_torch_does(fn: Callable[..., Any]) -> bool:
    """Is it a PyroModule that may be called as the torch module that it is?

    Pyro's own call announces every parameter to the handlers at each access, a third of the time of a small step. The
    pair knows its parameters already; only a module with random attributes (``PyroSample``) needs Pyro's call.
    """
    return isinstance(fn, PyroModule) and not any(random_attributes(part) for part in fn.modules())


def shape_key(batch: Batch) -> Hashable:
    """What a broadcast can depend on: the shapes of a batch, of the number of rows whether it is 1 or more, and what a
    model branches on (words, truth values, None). Other numbers change from call to call; of them the type counts.
    """

    def key(value: Any) -> Hashable:
        if isinstance(value, bool | str | None):
            return value
        if not isinstance(value, Tensor):
            return type(value).__name__
        return (min(len(value), 2), *value.shape[1:]) if value.dim() else ()

    return tuple(map(key, batch.args)), tuple((name, key(value)) for name, value in sorted(batch.kwargs.items()))
