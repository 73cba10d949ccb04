"""Python state that a model reads: numbers in its closure and on its modules, training flags, which tensors it holds.

A graph has all of this baked in, without an error. So a graph is used only while what it was traced under still holds;
and a step that itself changes such state (a counter, a list that grows) is never captured.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import random
import types
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from pyro.ops.jit import CompiledFunction
from torch import Tensor, nn

from ppl_vae import _private as private
from ppl_vae._private import MODULE_HOOKS
from ppl_vae.capture.ownership import FIXED, entries_of, is_library, is_opaque, library_s_own, own_classes
from ppl_vae.pair.reach import slots_of

_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device, np.generic)
_SEQUENCES = (list, tuple, set, frozenset, deque)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_LIMIT = 20_000
_DEPTH = 60
_SMALL = 4096  # entries of an array whose content is watched, and not its identity alone


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
        self._tensors, self._sized, self._readers, self._read = walk.tensors, walk.sized, walk.readers, walk.read
        self.refused = walk.refused  # why no step that reads this can be captured
        self._keep = walk.keep  # so that no identity is given out twice
        self._known = self._now()
        return self.state

    def _now(self) -> list[Any]:
        return list(
            chain(
                chain.from_iterable(map(dict.values, self._dicts)),
                chain.from_iterable(self._lists),
                map(_content, self._cells),
                map(_needs_grad, self._tensors),
                map(private.backward_hooks, self._tensors),
                map(private.accumulate_hooks, self._tensors),
                chain.from_iterable(map(operator.call, self._readers, self._read)),
                map(len, self._sized),
            )
        )

    def buffers(self) -> list[Tensor]:
        """The buffers of every module behind the roots: what a call may change in place."""
        found = {id(buffer): buffer for part in self._keep if isinstance(part, nn.Module) for buffer in part.buffers()}
        return list(found.values())

    def leaves(self) -> list[Tensor]:
        """The tensors that ask for gradients, parameters or not."""
        return [tensor for tensor in self._tensors if tensor.requires_grad and tensor.is_leaf]

    def unchanged(self) -> bool:
        """Is everything as it was? Cheap: the very same objects are in the same places, or equal numbers."""
        try:
            now = self._now()
        except (RuntimeError, ValueError, KeyError, AttributeError):  # something was deleted
            return False
        known = self._known
        return len(now) == len(known) and (all(map(operator.is_, now, known)) or all(map(_equal, now, known)))

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
_content = operator.attrgetter("cell_contents")
_needs_grad = operator.attrgetter("requires_grad")


def _equal(now: Any, known: Any) -> bool:
    """The same object, or a number that is the same in type and value (so that 1 is not 1.0, and NaN is NaN)."""
    return now is known or (type(now) is type(known) and isinstance(now, _SCALARS) and repr(now) == repr(known))


class _Walk:
    """One walk over what is reachable, each object once."""

    def __init__(self) -> None:
        self.found: dict[str, Hashable] = {}
        self.dicts: list[dict[Any, Any]] = []
        self.lists: list[Iterable[Any]] = []
        self.cells: list[types.CellType] = []
        self.tensors: list[Tensor] = []
        self.sized: list[dict[Any, Any]] = []
        self.readers: list[Callable[[Any], tuple[Any, ...]]] = []
        self.read: list[Any] = []
        self.keep: list[Any] = []
        self._seen: set[int] = set()
        self._tables: set[int] = set()  # of modules, by name
        self._kinds: dict[type, tuple[frozenset[str], list[str]]] = {}
        self.refused = ""

    def visit(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, _SCALARS):
            self.found[path] = repr(value)
            return
        self.keep.append(value)
        if isinstance(value, Tensor):
            self.found[path] = ("tensor", id(value), value.requires_grad, id(private.accumulate_hooks(value)))
        elif isinstance(value, _GENERATORS):
            self.found[path] = _noise_of(value)
            return
        elif isinstance(value, np.ndarray):
            self.found[path] = next(iter(_Content(value))) if value.size <= _SMALL else ("array", id(value))
        else:
            self.found[path] = _kind(value)
        if isinstance(value, Iterator) and not self.refused:
            self.refused = f"{path} is an iterator, and a graph would not move it"
        if len(self.found) > _LIMIT:
            self.refused = self.refused or f"there is more python state than can be watched, at {path}"
        if id(value) in self._seen or depth > _DEPTH or len(self.found) > _LIMIT:
            return
        self._seen.add(id(value))
        for name, item in self._inside(path, value):
            self.visit(f"{path}{name}", item, depth + 1)

    def _inside(self, path: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, Tensor):
            self.tensors.append(value)
            hooks = private.backward_hooks(value)
            return [("._backward_hooks", hooks)] if hooks else []
        if isinstance(value, np.ndarray):
            if value.size <= _SMALL:
                self.lists.append(_Content(value))
            return []
        if isinstance(value, CompiledFunction):  # what torch.jit makes of it is not what a graph is made of
            return [(".fn", value.fn)]
        if isinstance(value, types.MethodType):
            return [("", value.__self__), (f".{value.__func__.__name__}", value.__func__)]
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, functools.partial):
            held = [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
            return [*held, (".attributes", value.__dict__)] if value.__dict__ else held
        if isinstance(value, dict):
            self.dicts.append(value)
            if id(value) not in self._tables:
                self.lists.append(value.keys())
            entries = ((_entry(i, key), item) for i, (key, item) in enumerate(list(value.items())))
            return chain(entries, self._of_subclass(value))
        if isinstance(value, _SEQUENCES):
            return chain(self._of_sequence(path, value), self._of_subclass(value))
        if isinstance(value, type):
            return self._of_class(value)
        return [] if is_opaque(value) else self._of_object(value)

    def _select(self, owner: Any, names: list[str], getter: Callable[..., Any] = operator.itemgetter) -> None:
        """Read these entries of a dictionary, or attributes of an object, each time."""
        if names:
            self.readers.append(getter(*names, names[0]))  # two at least: else it would give no tuple
            self.read.append(owner)

    def _of_sequence(self, path: str, value: Any) -> list[tuple[str, Any]]:
        self.found[f"{path}.len"] = len(value)
        if not isinstance(value, tuple | frozenset):
            self.lists.append(value)
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [(f"[{i}]", item) for i, item in enumerate(items)]

    def _of_kind(self, kind: type) -> tuple[frozenset[str], list[str]]:
        """Of objects of a class: the attributes that are a library's own, the slots that are the caller's."""
        if kind not in self._kinds:
            slots = [name for part in own_classes(kind) for name in slots_of(part)]
            self._kinds[kind] = library_s_own(kind), slots
        return self._kinds[kind]

    def _of_subclass(self, value: Any) -> Iterable[tuple[str, Any]]:
        """What a list or dictionary of a class of the caller's holds besides."""
        is_plain = type(value).__module__ == "builtins"
        return () if is_plain or not own_classes(type(value)) else self._of_object(value)

    def _of_object(self, value: Any) -> Iterator[tuple[str, Any]]:
        yield f"({type(value).__name__})", type(value)
        passed_over, slots = self._of_kind(type(value))
        slots = [name for name in slots if hasattr(value, name)]
        self._select(value, slots, operator.attrgetter)
        yield from ((f".{name}", getattr(value, name)) for name in slots)
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict):
            return
        if isinstance(value, nn.Module):  # by which name it finds a part is its own matter
            self._tables.update(id(attributes[name]) for name in ("_parameters", "_buffers", "_modules"))
        names = [name for name in attributes if name not in passed_over]
        if len(names) == len(attributes):
            self.dicts.append(attributes)
        else:
            self._select(attributes, names)
            self.sized.append(attributes)  # whether there are new ones
        yield from ((f".{name}", attributes[name]) for name in names)
        if isinstance(value, nn.Module):
            for name in MODULE_HOOKS:
                self.sized.append(attributes[name])
                if attributes[name]:
                    yield f".{name}", attributes[name]

    def _of_class(self, value: type) -> Iterator[tuple[str, Any]]:
        """What the caller's own classes hold, and the code of their methods; of those in libraries nothing."""
        for part in own_classes(value):
            self.lists.append(vars(part).values())
            for name, item in entries_of(part):
                code = getattr(item, "fget", getattr(item, "__func__", item))  # of properties, static and class methods
                yield f".{name}", code

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
        yield ".attributes", fn.__dict__
        if is_library(fn.__module__):
            return
        self._select(fn, ["__code__", "__defaults__"], operator.attrgetter)
        known, names = fn.__globals__, _global_names(fn.__code__)
        read = [name for name in sorted(names) if name in known and not isinstance(known[name], types.ModuleType)]
        self._select(known, read)
        for name in read:
            yield f":{name}", known[name]
        for module in sorted(name for name in names if isinstance(known.get(name), types.ModuleType)):
            if not is_library(known[module].__name__):
                yield from self._of_module(f":{module}", vars(known[module]), names)

    def _of_module(self, path: str, entries: dict[str, Any], names: set[str]) -> Iterator[tuple[str, Any]]:
        """The entries of a module of the caller's that a function can mean when it names them."""
        read = sorted(name for name in names if name in entries and not isinstance(entries[name], types.ModuleType))
        self._select(entries, read)
        yield from ((f"{path}.{name}", entries[name]) for name in read)


def _noise_of(generator: Any) -> str:
    """Where a generator of the caller's own stands."""
    if isinstance(generator, torch.Generator):
        return str(generator.get_state().tolist())
    if isinstance(generator, np.random.RandomState):
        _, words, *place = generator.get_state()
        return f"{np.asarray(words).tolist()} {place}"
    state = generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state
    return repr(state)


class _Content:
    """What stands in an array, as one string."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __iter__(self) -> Iterator[str]:
        digest = hashlib.sha256(self._array.tobytes()).hexdigest()
        yield f"array {self._array.dtype} {self._array.shape} {digest}"


def _entry(place: int, key: Any) -> str:
    return f"[{key!r}]" if isinstance(key, (*_SCALARS, tuple)) else f"[#{place}]"


def _kind(value: Any) -> Hashable:
    """What must not become another: a function by its code, what has no inside by identity, the rest by type."""
    if isinstance(value, types.FunctionType):
        return "function", id(value.__code__)
    if isinstance(value, FIXED) or (callable(value) and is_opaque(value)):
        return "object", id(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _global_names(code: types.CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_global_names(inner) for inner in nested))
