"""What a model or a guide stands on: the modules that can be reached from it."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["modules_of", "owned_module", "slots_of"]

MOST = 10_000
"""So many objects are looked at; a model that reaches more is a trainer, a data base, or the like."""

_LEAVES = (str, bytes, int, float, complex, type(None), Tensor, type, types.ModuleType, types.BuiltinFunctionType)
_FOREIGN = ("torch", "pyro", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "arviz", "builtins")


def owned_module(fn: Any) -> nn.Module | None:
    """The module whose parameters are trained without ``pyro.module``: ``fn``, or the object that it is a method of."""
    module = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
    return module if isinstance(module, nn.Module) else None


def modules_of(fn: Any) -> list[nn.Module]:
    """The modules that a model or guide stands on, nearest first: itself, the object of a bound method, and what
    closures, global names, partials, attributes of plain objects, lists and dictionaries lead to.

    Nothing is called on the way: properties are not looked at. Inside a module one does not go on; what it holds is its
    own.
    """
    found: dict[int, nn.Module] = {}
    queue, seen = [fn], {id(fn)}
    for thing in queue:  # the list grows while it is read: nearest first
        if isinstance(thing, nn.Module):
            found[id(thing)] = thing
            continue
        for part in _parts(thing):
            if id(part) not in seen and not isinstance(part, _LEAVES):
                seen.add(id(part))
                queue.append(part)
        if len(queue) > MOST:
            warnings.warn(
                f"Pair: more than {MOST} objects can be reached from {fn!r}, and no further modules are looked for; "
                "hold the networks in a module, or register them with pyro.module",
                stacklevel=2,
            )
            break
    return list(found.values())


def _parts(thing: Any) -> Iterator[Any]:
    """What an object holds directly."""
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, types.FunctionType):
        yield from _named(thing)
    elif isinstance(thing, Mapping):
        yield from (thing.values() if type(thing) is dict or _is_own(thing) else ())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    elif _is_own(thing):
        yield from vars(thing).values() if hasattr(thing, "__dict__") else ()
        slots = (name for kind in type(thing).__mro__ for name in slots_of(kind))
        yield from (getattr(thing, name) for name in slots if hasattr(thing, name))


def _named(fn: types.FunctionType) -> Iterator[Any]:
    """What a function's code names: cells of its closure, then globals, then defaults."""
    if not _is_of(fn.__module__):
        return
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for code in _codes(fn.__code__):
        yield from (fn.__globals__[name] for name in code.co_names if name in fn.__globals__)
    yield from (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values())
    if hasattr(fn, "__wrapped__"):
        yield fn.__wrapped__


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function, and of those that are written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def slots_of(kind: type) -> tuple[str, ...]:
    """The attributes that a class has slots for, by the names under which they are found."""
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(_mangled(kind, name) for name in names if name not in ("__dict__", "__weakref__"))


def _mangled(kind: type, name: str) -> str:
    """As Python calls an attribute of a class that begins with two underscores."""
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if is_private else name


def _is_own(thing: Any) -> bool:
    """Is it an object of a person's own class, or one of ours?"""
    return _is_of(type(thing).__module__)


def _is_of(module: str | None) -> bool:
    return not any(module == root or str(module).startswith(f"{root}.") for root in _FOREIGN)
