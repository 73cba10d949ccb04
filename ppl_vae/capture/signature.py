"""What of a call's arguments a graph depends on: shapes, dtypes, devices of tensors, and everything else by value."""

from __future__ import annotations

import types
from argparse import Namespace
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.capture.errors import CaptureError

_NAMESPACES = (Namespace, types.SimpleNamespace)
"""They are nothing but the names in them, as a dictionary is."""
_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device)


def signature(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Hashable, list[Tensor]]:
    """The key of a call, and its tensors in order.

    A tensor that asks for gradients is a parameter rather than data: it is part of the key itself, and not an input.

    Raises:
        CaptureError: an argument can neither be compared by value nor taken apart.
    """
    tensors: list[Tensor] = []
    key = tuple(_key(value, tensors) for value in args)
    if kwargs:
        key += tuple((name, _key(value, tensors)) for name, value in kwargs.items())  # a model may go by their order
    return key, tensors


def _key(value: Any, tensors: list[Tensor]) -> Hashable:
    if type(value) is Tensor and not value.requires_grad:
        if value.layout is not torch.strided:
            raise CaptureError(f"an argument is a tensor of the layout {value.layout}, which a graph does not take")
        if value.is_neg() or value.is_conj():
            raise CaptureError("an argument is a lazily conjugated view, whose sign a graph would not see; clone it")
        tensors.append(value)
        return value.shape, value.dtype, value.device, value.stride()
    if isinstance(value, Tensor):
        return "tensor", _Same(value)
    if isinstance(value, float | complex):
        return type(value), repr(value)  # NaN is no other number each time, and -0.0 is another than 0.0
    if isinstance(value, _SCALARS):
        return type(value), value
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        return type(value), tuple(_key(item, tensors) for item in value)
    if type(value) is dict:
        return dict, tuple((name, _key(item, tensors)) for name, item in value.items())
    if type(value) in _NAMESPACES:
        return type(value), _key(vars(value), tensors)
    if _has_value(value):
        return type(value), value
    raise CaptureError(
        f"an argument of type {type(value).__name__} cannot be told from another one; give tensors, numbers, strings, "
        "or lists, tuples, dictionaries and namespaces of these"
    )


def _has_value(value: Any) -> bool:
    """Is it hashed by its value? What is hashed by identity may change inside, without a sign."""
    if isinstance(value, type | types.BuiltinFunctionType):
        return True
    by_identity: Any = object.__hash__
    if type(value).__hash__ is by_identity or isinstance(value, types.MethodType):
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


class _Same:
    """Equal to the same tensor only, and keeps it: so that its identity is not given out twice."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._tensor is other._tensor

    def __hash__(self) -> int:
        return id(self._tensor)


def rebuilder(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], tuple[Any, Any]]:
    """A function that puts other tensors into the places of a call's tensors."""
    template = _mapped((tuple(args), dict(kwargs)), lambda tensor: _PLACE)  # it keeps no data of the first call

    def rebuild(tensors: Sequence[Tensor]) -> tuple[Any, Any]:
        left = iter(tensors)
        args, kwargs = _mapped(template, lambda place: next(left))
        return args, kwargs

    return rebuild


_PLACE = object()


def _mapped(value: Any, fn: Callable[[Any], Any]) -> Any:
    """``value`` with its data tensors, or their places, replaced in order."""
    if value is _PLACE or (type(value) is Tensor and not value.requires_grad):
        return fn(value)
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        items = [_mapped(item, fn) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) is dict:
        return {name: _mapped(item, fn) for name, item in value.items()}
    if type(value) in _NAMESPACES:
        return type(value)(**_mapped(vars(value), fn))
    return value


def described(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """How a person reads a signature: ``float32[64, 784], beta=0.5``."""
    parts = [_described(value) for value in args]
    return ", ".join(parts + [f"{name}={_described(kwargs[name])}" for name in kwargs]) or "no arguments"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__name__}"
