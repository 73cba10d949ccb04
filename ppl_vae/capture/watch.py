"""Python state that a model reads: numbers in its closure and on its modules, training flags, which tensors it holds.

A graph has all of this baked in, without an error. So a graph is used only while what it was traced under still holds;
and a step that itself changes such state (a counter, a list that grows) is never captured.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from pyro.ops.jit import CompiledFunction
from torch import Tensor, nn

from ppl_vae import _private as private
from ppl_vae._private import MODULE_HOOKS
from ppl_vae.capture.ownership import entries_of, is_library, is_opaque, library_s_own, own_classes
from ppl_vae.capture.tokens import GENERATORS, SCALARS, SEQUENCES, Content, Items, Same, equal, noise_of, token
from ppl_vae.pair.reach import slots_of

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
        walk.visit_modules()
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
        return len(now) == len(known) and (all(map(operator.is_, now, known)) or all(map(equal, now, known)))

    def changes(self) -> list[str]:
        """Look again, and name the paths at which something is different now."""
        before = self.state
        after = self.look()
        names = [name for name in {**before, **after} if before.get(name, _NOTHING) != after.get(name, _NOTHING)]
        return sorted(names)

    @property
    def key(self) -> Hashable:
        """The state as one key."""
        return frozenset(self.state.items())


_NOTHING = object()
_content = operator.attrgetter("cell_contents")
_needs_grad = operator.attrgetter("requires_grad")


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
        self._modules: list[tuple[str, dict[str, Any]]] = []  # of the caller's: where they are, and their entries
        self._names: set[str] = set()  # that functions of the caller's name
        self._kinds: dict[type, tuple[frozenset[str], list[str]]] = {}
        self.refused = ""

    def visit(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, SCALARS):
            self.found[path] = repr(value)
            if not hasattr(value, "__dict__"):
                return
        self.keep.append(value)
        if isinstance(value, Tensor):
            self.found[path] = ("tensor", id(value), value.requires_grad, id(private.accumulate_hooks(value)))
        elif isinstance(value, GENERATORS):
            self.found[path] = noise_of(value)
            return
        elif isinstance(value, np.ndarray):
            self.found[path] = _of_array(value)
        elif not isinstance(value, SCALARS):
            self.found[path] = token(value)
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
            return chain(self._of_array(value), self._of_subclass(value))
        if isinstance(value, SCALARS):
            return self._of_subclass(value)
        if isinstance(value, CompiledFunction):  # what torch.jit makes of it is not what a graph is made of
            return [(".fn", value.fn)]
        if isinstance(value, types.MethodType):
            return [("", value.__self__), (f".{value.__func__.__name__}", value.__func__)]
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, functools.partial):
            held = [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
            return [*held, (".attributes", value.__dict__)] if value.__dict__ else held
        if isinstance(value, slice):
            return [(".start", value.start), (".stop", value.stop), (".step", value.step)]
        if isinstance(value, dict | types.MappingProxyType):
            return chain(self._of_mapping(path, value), self._of_subclass(value))
        if isinstance(value, SEQUENCES):
            return chain(self._of_sequence(path, value), self._of_subclass(value))
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, types.ModuleType):
            if not _is_library(value):
                self._modules.append((path, vars(value)))
            return []
        return [] if is_opaque(value) else self._of_object(value)

    def _select(self, owner: Any, names: list[str], getter: Callable[..., Any] = operator.itemgetter) -> None:
        """Read these entries of a dictionary, or attributes of an object, each time."""
        if names:
            self.readers.append(getter(*names, names[0]))  # two at least: else it would give no tuple
            self.read.append(owner)

    def _of_mapping(self, path: str, value: Any) -> list[tuple[str, Any]]:
        if isinstance(value, dict):
            self.dicts.append(value)
        else:
            self.lists.append(value.values())
        entries = [(_entry(i, key), item) for i, (key, item) in enumerate(list(value.items()))]
        if id(value) not in self._tables:
            self.lists.append(value.keys())
            self.found[f"{path}.order"] = " ".join(name for name, _ in entries)
        return entries

    def _of_array(self, value: np.ndarray) -> list[tuple[str, Any]]:
        if value.size > _SMALL:
            return []
        if value.dtype != object:
            self.lists.append(Content(value))
            return []
        self.lists.append(Items(value))
        return [(f"[{i}]", item) for i, item in enumerate(Items(value))]

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
        empty = [name for name in slots if not hasattr(value, name)]
        if empty:
            self.readers.append(functools.partial(_filled, empty))
            self.read.append(value)
        slots = [name for name in slots if name not in empty]
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
        if own_classes(type(value)):
            yield "(metaclass)", type(value)
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
        self._names |= names
        read = sorted(name for name in names if name in known and not _is_library(known[name]))
        self._select(known, read)
        for name in read:
            yield f":{name}", known[name]

    def visit_modules(self) -> None:
        """The entries of the caller's modules that a function can mean when it names them, wherever the modules are."""
        met: set[tuple[int, str]] = set()
        while new := [
            (f"{path}.{name}", entries, name)
            for path, entries in self._modules
            for name in sorted(self._names & entries.keys())
            if (id(entries), name) not in met and not _is_library(entries[name])
        ]:
            for path, entries, name in new:
                if (id(entries), name) not in met:
                    met.add((id(entries), name))
                    self._select(entries, [name])
                    self.visit(path, entries[name], 1)


def _is_library(value: Any) -> bool:
    """Is it a module whose code reads no state of the caller's?"""
    return isinstance(value, types.ModuleType) and is_library(value.__name__)


def _filled(names: list[str], value: Any) -> tuple[bool, ...]:
    """Which slots of an object have something in them."""
    return tuple(hasattr(value, name) for name in names)


def _of_array(array: np.ndarray) -> Hashable:
    if array.size > _SMALL:
        return Same(array)
    return f"array of objects {array.shape}" if array.dtype == object else next(iter(Content(array)))


def _entry(place: int, key: Any) -> str:
    return f"[{key!r}]" if isinstance(key, (*SCALARS, tuple)) else f"[#{place}]"


def _global_names(code: types.CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_global_names(inner) for inner in nested))
