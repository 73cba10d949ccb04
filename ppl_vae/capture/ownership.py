"""Whose state is it: the caller's, whose every number a model may read, or a library's own? By type, never by name."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import nn

from ppl_vae._private import MODULE_HOOKS

FIXED = (type, types.ModuleType, types.BuiltinFunctionType)
"""What is by its identity what it is."""

_LIBRARIES = ("torch", "pyro", "numpy", "ppl_vae", "opt_einsum", "zuko")  # their code reads no state of the caller's
# Objects without an attribute that a model could read a number from.
_OPAQUE = ("builtins", "weakref", "threading", "_thread", "logging", "typing", "abc", "enum")
_OPAQUE_FAMILIES = ("torch._C", "torch._ops", "torch.utils.data")
# Objects with their own account of what changes.
_ACCOUNTED_FAMILIES: tuple[str, ...] = ("pyro.params", "pyro.poutine.trace_struct")
_ACCOUNTED_FAMILIES += ("ppl_vae.capture", "ppl_vae.inference", "ppl_vae.training")

# What classes of libraries compute anew in every call, or keep of a guide's first run, if their own code writes it.
_CACHES = ("_cache", "_indices", "_pyro_context", "prototype_trace", "_prototype")
_OF_MODULES = frozenset(vars(nn.Module())) - {"training", "_parameters", "_buffers", "_modules"} | {*MODULE_HOOKS}
# What Python itself writes into a class.
_OF_CLASSES = frozenset(vars(type("Empty", (), {}))) | {
    "__abstractmethods__",
    "__annotations__",
    "__annotations_cache__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__firstlineno__",
    "__match_args__",
    "__orig_bases__",
    "__parameters__",
    "__slots__",
    "__static_attributes__",
    "_abc_impl",
}


def is_library(module: str | None) -> bool:
    """Is this a module of Python's or of an installed package's? Their code reads no state of the caller's."""
    root = (module or "builtins").partition(".")[0]
    return _lies_in_library(root, getattr(sys.modules.get(root), "__file__", None))


@functools.cache
def _lies_in_library(root: str, file: str | None) -> bool:
    if root in _LIBRARIES:
        return True
    if file is None:
        return root in sys.stdlib_module_names
    places = Path(file).parts
    if "site-packages" in places or "dist-packages" in places:
        return True
    # A file of the caller's may be called as a module of Python's is.
    return root in sys.stdlib_module_names and Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def own_classes(kind: type) -> list[type]:
    """The classes of the caller's among a class and those that it stands on."""
    return [part for part in kind.__mro__ if not is_library(part.__module__)]


def library_s_own(kind: type) -> frozenset[str]:
    """The attributes of an object of this class that a library keeps for itself, and no model reads numbers from."""
    return frozenset().union(*(_kept_by(part) for part in kind.__mro__ if is_library(part.__module__)))


@functools.cache
def _kept_by(part: type) -> frozenset[str]:
    """What a class of a library keeps for itself: caches that its own methods write, and what it names so itself."""
    if part is nn.Module:
        return _OF_MODULES
    functions = (inspect.unwrap(getattr(item, "fget", item)) for item in vars(part).values() if item is not None)
    written = {name for fn in functions if isinstance(fn, types.FunctionType) for name in _stored(fn.__code__)}
    return frozenset(name for name in written if name.startswith(_CACHES)) | {*vars(part).get("_unwatched", ())}


def _stored(code: types.CodeType) -> Iterator[str]:
    """The attributes that a piece of code assigns."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR")
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _stored(inner)


def entries_of(kind: type) -> Iterator[tuple[str, Any]]:
    """What stands in a class but for what Python writes there."""
    yield from ((name, item) for name, item in vars(kind).items() if name not in _OF_CLASSES)


def is_opaque(value: Any) -> bool:
    """Is there nothing inside that a model could read a number from?"""
    return isinstance(value, FIXED) or has_own_account(value) or _is_of(value, _OPAQUE_FAMILIES, _OPAQUE)


def has_own_account(value: Any) -> bool:
    """Is it what trains the model, or what a run is written into: no model reads it, and others may take its place?"""
    return isinstance(value, torch.optim.Optimizer | PyroOptim | SVI) or _is_of(value, _ACCOUNTED_FAMILIES)


def _is_of(value: Any, families: tuple[str, ...], modules: tuple[str, ...] = ()) -> bool:
    module = type(value).__module__ or ""
    return module in modules or f"{module}.".startswith(tuple(f"{family}." for family in families))
