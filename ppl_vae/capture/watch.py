"""Python state that a model reads: numbers in its closure and on its modules, training flags, which tensors it holds.

A graph has all of this baked in, without an error. So a graph is used only while what it was traced under still holds;
and a step that itself changes such state (a counter, a list that grows) is never captured.
"""

from __future__ import annotations

import random
import types
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device)
_LIMIT = 20_000
_DEPTH = 12
# Caches of values that every call computes anew, and records of a guide's first run.
_VOLATILE = ("_cache", "_indices", "_pyro_context", "prototype_trace", "_prototype", "_backward_hooks", "_forward", "_state_dict")
_VOLATILE += ("_load_state", "_non_persistent", "_is_full_backward", "__weakref__")
_LIBRARIES = ("torch", "pyro", "numpy", "math", "opt_einsum", "zuko")
_OPAQUE = ("builtins", "torch._C", "numpy", "weakref", "collections", "threading", "logging", "typing", "abc", "enum")


class Watch:
    """The python state behind some functions and modules, as it was when last looked at.

    Args:
        roots: by name, the functions, modules and objects that a step calls.
    """

    def __init__(self, roots: dict[str, Any]) -> None:
        self._roots = roots
        self.look()

    def look(self) -> dict[str, Hashable]:
        """Read everything anew: by path, numbers by value and tensors by identity."""
        walk = _Walk()
        for name, root in self._roots.items():
            walk.visit(name, root, 0)
        self.state, self._dicts, self._lists, self._cells = walk.found, walk.dicts, walk.lists, walk.cells
        self._keep = walk.keep  # so that no identity is given out twice
        self._known = self._now()
        return self.state

    def _now(self) -> list[Any]:
        cells = (cell.cell_contents for cell in self._cells)
        return list(chain(chain.from_iterable(map(dict.values, self._dicts)), chain.from_iterable(self._lists), cells))

    def buffers(self) -> list[Tensor]:
        """The buffers of every module behind the roots: what a call may change in place."""
        found = {id(buffer): buffer for part in self._keep if isinstance(part, nn.Module) for buffer in part.buffers()}
        return list(found.values())

    def unchanged(self) -> bool:
        """Is everything as it was? Cheap: the very same objects are in the same places."""
        try:
            return bool(self._now() == self._known)
        except (RuntimeError, ValueError, TypeError):  # another tensor or array is there, and == is no truth value
            return False

    def changes(self) -> list[str]:
        """Look again, and name the paths at which something is different now."""
        before = self.state
        after = self.look()
        names = [name for name in {**before, **after} if before.get(name, _NOTHING) != after.get(name, _NOTHING)]
        return sorted(names)

    @property
    def key(self) -> Hashable:
        """The state as one key."""
        return tuple(sorted((name, repr(value)) for name, value in self.state.items()))


_NOTHING = object()


class _Walk:
    """One walk over what is reachable, each object once."""

    def __init__(self) -> None:
        self.found: dict[str, Hashable] = {}
        self.dicts: list[dict[Any, Any]] = []
        self.lists: list[Any] = []
        self.cells: list[types.CellType] = []
        self.keep: list[Any] = []
        self._seen: set[int] = set()

    def visit(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, _SCALARS):
            self.found[path] = repr(value)
        elif isinstance(value, Tensor):
            self.found[path] = ("tensor", id(value), value.requires_grad)
            self.keep.append(value)
        elif isinstance(value, np.random.Generator | random.Random | torch.Generator):
            self.found[path] = _noise_of(value)
            self.keep.append(value)
        elif id(value) in self._seen or depth > _DEPTH or len(self.found) > _LIMIT:
            return
        else:
            self._seen.add(id(value))
            self.keep.append(value)
            for name, item in self._inside(path, value):
                self.visit(f"{path}{name}", item, depth + 1)

    def _inside(self, path: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, types.MethodType):
            return [("", value.__self__), (f".{value.__func__.__name__}", value.__func__)]
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, dict):
            self.dicts.append(value)
            return [(f"[{key!r}]", item) for key, item in value.items() if isinstance(key, _SCALARS)]
        if isinstance(value, list | tuple | set | frozenset):
            self.found[f"{path}.len"] = len(value)
            if isinstance(value, list):
                self.lists.append(value)
            return [(f"[{i}]", item) for i, item in enumerate(value)]
        if _is_opaque(value):
            return []
        return self._of_object(value)

    def _of_object(self, value: Any) -> Iterator[tuple[str, Any]]:
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict):
            if hasattr(value, "func") and hasattr(value, "args"):  # functools.partial
                yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))
            return
        volatile = _VOLATILE + getattr(type(value), "_unwatched", ())
        if not any(name.startswith(volatile) for name in attributes):
            self.dicts.append(attributes)
        else:
            self.lists.append(_Selected(attributes, [name for name in attributes if not name.startswith(volatile)]))
        for name, item in attributes.items():
            if not name.startswith(volatile):
                yield f".{name}", item
        if isinstance(value, nn.Module) or not hasattr(value, "func"):
            return
        yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))

    def _of_function(self, fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            self.cells.append(cell)
            yield f".{name}", content
        for i, default in enumerate(fn.__defaults__ or ()):
            yield f".default{i}", default
        if fn.__kwdefaults__:
            yield ".kwdefaults", fn.__kwdefaults__
        if hasattr(fn, "__wrapped__"):
            yield "", fn.__wrapped__
        known = fn.__globals__
        read = [name for name in _global_names(fn.__code__) if name in known and _is_state(known[name])]
        if read:
            self.lists.append(_Selected(known, read))
        for name in read:
            yield f":{name}", known[name]
        if fn.__dict__:
            yield ".attributes", {k: v for k, v in fn.__dict__.items() if k != "__wrapped__"}


def _noise_of(generator: Any) -> str:
    """Where a generator of the caller's own stands."""
    if isinstance(generator, torch.Generator):
        return str(generator.get_state().tolist())
    state = generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state
    return repr(state)


class _Selected:
    """Some entries of a dictionary, read anew each time."""

    def __init__(self, entries: dict[str, Any], names: list[str]) -> None:
        self._entries, self._names = entries, names

    def __iter__(self) -> Iterator[Any]:
        return map(self._entries.get, self._names)


def _global_names(code: types.CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_global_names(inner) for inner in nested))


def _is_state(value: Any) -> bool:
    """Is this global something that changes a model? Functions of installed libraries read no state of the caller's."""
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return False
    root = (getattr(value, "__module__", None) or "").partition(".")[0]
    return not (isinstance(value, types.FunctionType) and root in _LIBRARIES)


def _is_opaque(value: Any) -> bool:
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return True
    module = type(value).__module__ or ""
    if module.startswith("pyro.poutine.trace_struct") or module.startswith("pyro.params"):
        return True
    return module in _OPAQUE and not hasattr(value, "func")
