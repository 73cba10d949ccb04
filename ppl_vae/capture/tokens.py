"""What stands for an object in the state that is watched: its value where it has one, else which object it is."""

from __future__ import annotations

import functools
import hashlib
import random
import types
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import torch
from pyro.ops.jit import CompiledFunction

from ppl_vae.capture.ownership import FIXED, has_own_account, is_library, is_opaque, own_classes

SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device, np.generic)
SEQUENCES = (list, tuple, set, frozenset, deque)
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)

# Their insides are watched, so that others with equal insides are no other state.
_LOOKED_INTO = (dict, *SEQUENCES, types.MappingProxyType, slice, types.MethodType, functools.partial, CompiledFunction)


class Same:
    """Stands for an object that nothing can be read off: equal to itself alone. It keeps it, and so its identity.

    Args:
        value: the object.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._is(other.value)

    def __hash__(self) -> int:
        return id(self.value)

    def _is(self, other: Any) -> bool:
        return other is self.value


class Value(Same):
    """Stands for an object that compares by its value (a fraction, a date, a path): equal to its equals in type."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash(self.value)

    def _is(self, other: Any) -> bool:
        return other is self.value or (type(other) is type(self.value) and bool(other == self.value))


def token(value: Any) -> Hashable:
    """What must not become another: a function by its code, what has an inside that is watched by its type, a value of
    a library's by its value, and what is left by identity.
    """
    if isinstance(value, types.FunctionType):
        return "function", Same(value.__code__)
    if isinstance(value, FIXED):
        return Same(value)
    if not isinstance(value, _LOOKED_INTO) and not has_own_account(value):
        if _has_value(value):
            return Value(value)
        if is_opaque(value) or _is_closed(value):
            return Same(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _has_value(value: Any) -> bool:
    """Has a library said when two such objects are equal, in one word, and that this lasts (by a hash)?"""
    if callable(value) or not _compares_by_value(type(value)):
        return False
    try:
        hash(value)
        return (value == value) is True  # arrays answer entry by entry, and what is not a number says no
    except Exception:  # the comparison is a foreign class's own
        return False


def _compares_by_value(kind: Any) -> bool:
    judge = next(part for part in kind.__mro__ if "__eq__" in vars(part))
    is_hashable = kind.__hash__ not in (None, object.__hash__)
    return judge is not object and is_hashable and is_library(judge.__module__)


def _is_closed(value: Any) -> bool:
    """Is it an object of a library's whose numbers, if it has any, stand in no attribute that could be watched?"""
    kind: Any = type(value)
    if own_classes(kind) or getattr(value, "__dict__", None):
        return False
    return not hasattr(value, "__dict__") or kind.__new__ is not object.__new__  # which those written in C have


def equal(now: Any, known: Any) -> bool:
    """The same object, or one that is the same in type and value (so that 1 is not 1.0, and NaN is NaN)."""
    if now is known:
        return True
    if type(now) is not type(known):
        return False
    if isinstance(now, SCALARS):  # those with attributes are looked into
        return not hasattr(now, "__dict__") and repr(now) == repr(known)
    mark = token(now)
    return isinstance(mark, Value) and mark == token(known)


def noise_of(generator: Any) -> str:
    """Where a generator of the caller's own stands."""
    if isinstance(generator, torch.Generator):
        return str(generator.get_state().tolist())
    if isinstance(generator, np.random.RandomState):
        _, words, *place = generator.get_state()
        return f"{np.asarray(words).tolist()} {place}"
    state = generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state
    return repr(state)


class Content:
    """What stands in an array, as one string.

    Args:
        array: of numbers; the bytes of one of objects say where those are, not what.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __iter__(self) -> Iterator[str]:
        digest = hashlib.sha256(self._array.tobytes()).hexdigest()
        yield f"array {self._array.dtype} {self._array.shape} {digest}"


class Items:
    """The objects in an array of objects.

    Args:
        array: of objects.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array.ravel())
