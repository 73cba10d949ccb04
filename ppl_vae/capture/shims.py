"""What must be bent in Pyro and torch while a step is traced, and only then.

Each entry replaces one function, mostly for callers in one module of Pyro, by a form whose operations do not depend on
values. The replacement gives the same numbers to the bit (tests/capture/test_shims.py), under the versions of
:data:`TESTED`; every capture is compared with the eager step besides, so another version can cost speed, never truth.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pyro.ops.jit import CompiledFunction
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_vae import _private as private
from ppl_vae.capture.errors import CaptureError, line_of_caller

TESTED = ("1.9.1", "1.9.2")
"""The versions of Pyro that the shims were tested on."""

_DICE = "pyro.infer.util"
_PLATE = "pyro.poutine.indep_messenger"
_TRANSFORMS = "pyro.distributions.transforms."
_SPLINE = _TRANSFORMS + "spline"
_LOSSES = ("pyro.infer.", "pyro.contrib.", "ppl_vae.objectives")
MOST_OPERATIONS = 20_000
"""In a graph before its backward, at most: a step that makes more, as an enumeration in a loop does, would be traced
for minutes and compiled for hours."""


def _item(caller: str, tensor: Tensor) -> Any:
    """A loss that Pyro turns into a Python float becomes a float64 tensor: the same arithmetic, inside the graph."""
    if caller.startswith(_LOSSES) and tensor.is_floating_point():
        return tensor.detach().double()
    return _constant(caller, tensor)


def _constant(caller: str, tensor: Tensor) -> Any:
    """The value of a tensor that no step makes: torch gives it, and the graph holds until the tensor is changed."""
    _constants.append((tensor, private.version(tensor)))
    return NotImplemented


def _values(caller: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Lists and arrays are read past torch's dispatcher, without a trace."""
    raise CaptureError(f"it reads the values of a tensor, by tolist() or numpy(){line_of_caller()}")


def _all(caller: str, mask: Tensor, *args: Any) -> Any:
    """``Dice.compute_expectation`` asks whether every probability is positive; :func:`_fulldot` copes if not."""
    return True if caller == _DICE and not args else NotImplemented


def _fulldot(prob: Tensor, cost: Tensor) -> Tensor:
    """Pyro's sum of prob * cost over prob > 0, without selecting: an impossible value may cost infinity."""
    possible = torch.where(prob > 0, cost, torch.zeros((), dtype=cost.dtype, device=cost.device))
    if prob.dim() == 0:
        return prob * possible
    if prob.is_contiguous() and cost.is_contiguous():
        return torch.tensordot(prob, possible, dims=prob.dim())
    return (prob * torch.empty_like(cost).copy_(possible)).sum()  # as tensordot adds then: along the order in memory


def _bool(caller: str, tensor: Tensor) -> Any:
    """An ``assert`` in a model: it holds in the call that is traced, and each compared step makes it again."""
    frame = _frame()
    if not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("assert "):
        return NotImplemented
    with private.disable_current_modes():
        return bool(tensor)


def _one_hot(caller: str, index: Tensor, num_classes: int = -1) -> Any:
    """What looks at the values to check them, in torch; the classes are given, so a comparison does."""
    if num_classes < 1:
        return NotImplemented
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


def _get(caller: str, tensor: Tensor, key: Any) -> Any:
    """``outputs[mask] = inputs[mask]`` in the spline: all of ``inputs`` here, the choice in :func:`_set`.

    And ``rows[i]`` with a tensor i of no dimensions, for which torch asks its value.
    """
    if any(
        isinstance(part, Tensor) and part.dtype == torch.bool for part in (key if isinstance(key, tuple) else (key,))
    ):
        _selections.append(line_of_caller())
    if isinstance(key, Tensor) and not key.dim() and key.dtype in (torch.int32, torch.int64):
        return tensor.index_select(0, torch.where(key < 0, key + len(tensor), key).reshape(1)).squeeze(0)
    return tensor if caller == _SPLINE and _is_mask(key, tensor) else NotImplemented


def _set(caller: str, tensor: Tensor, key: Any, value: Any) -> Any:
    if caller != _SPLINE or not _is_mask(key, tensor):
        return NotImplemented
    tensor.copy_(torch.where(key, torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device), tensor))
    return None


def _unbind(caller: str, tensor: Tensor, dim: int = 0) -> Any:
    """An inverse pass walks along a buffer of indices, a plate that is a loop along 0, 1, 2, ...: constants both."""
    if tensor.is_floating_point() or tensor.dim() != 1:
        return NotImplemented
    if caller.startswith(_TRANSFORMS):
        _constants.append((tensor, private.version(tensor)))
        with private.disable_current_modes():
            return [int(i) for i in tensor]
    whole = caller == _PLATE and _frame().f_locals["self"].size == len(tensor)  # no subsample, whose indices are drawn
    return list(range(len(tensor))) if whole and _counts(tensor) else NotImplemented


def _counts(tensor: Tensor) -> bool:
    with private.disable_current_modes():
        return torch.equal(tensor, torch.arange(len(tensor)))


def _is_mask(key: Any, tensor: Tensor) -> bool:
    return isinstance(key, Tensor) and key.dtype == torch.bool and key.shape == tensor.shape


_REPLACED: dict[Any, Callable[..., Any]] = {
    Tensor.item: _item,
    Tensor.all: _all,
    Tensor.__bool__: _bool,
    Tensor.__float__: _constant,
    Tensor.__int__: _constant,
    Tensor.__index__: _constant,
    Tensor.tolist: _values,
    Tensor.numpy: _values,
    Tensor.__array__: _values,
    Tensor.__getitem__: _get,
    Tensor.__setitem__: _set,
    Tensor.unbind: _unbind,
    torch.nn.functional.one_hot: _one_hot,
}


class _Replacing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        proxies = private.proxy_mode()
        if proxies is not None and len(proxies.tracer.graph.nodes) > MOST_OPERATIONS:
            raise CaptureError(f"it makes more than {MOST_OPERATIONS} operations, too many for one graph")
        replacement = _REPLACED.get(func)
        if replacement is not None:
            result = replacement(_name(_frame()), *args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


def _frame() -> FrameType:
    """The frame that called the torch function: the first outside torch and this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _name(frame).startswith(("torch.", __name__)):
        frame = frame.f_back
    return frame


def _name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


_constants: list[tuple[Tensor, int]] = []
_selections: list[str] = []


def selection() -> str:
    """Where the trace has first met a selection by a mask: torch.fx keeps the lines of ``forward`` methods alone."""
    return next(iter(_selections), "")


@contextmanager
def active() -> Iterator[list[tuple[Tensor, int]]]:
    """Put the shims in place for one trace, and everything back after it.

    Yields:
        The tensors whose values the trace took as constants, with their versions.
    """
    changed: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        changed.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        for module in [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "pyro" and m is not None]:
            # They look at values; a captured step looks at its loss instead.
            for name in ("warn_if_nan", "warn_if_inf"):
                if callable(vars(module).get(name)):
                    replace(module, name, _as_it_is)
        replace(sys.modules[_DICE], "_fulldot", _fulldot)
        replace(CompiledFunction, "__call__", _uncompiled)
        replace(torch.jit, "trace", _no_second_trace)
        # One held by a model keeps its own flag.
        replace(torch.distributions.Distribution, "_validate_sample", _as_it_is)
        _constants.clear()
        _selections.clear()
        with _Replacing():
            yield _constants
    finally:
        for owner, name, value in reversed(changed):
            setattr(owner, name, value)


def _as_it_is(value: Any = None, *args: Any, **kwargs: Any) -> Any:
    return value


def _uncompiled(self: CompiledFunction, *args: Any, **kwargs: Any) -> Any:
    """What Pyro's Jit ELBOs give to ``torch.jit`` goes into our graph instead."""
    return self.fn(*args, **kwargs)


def _no_second_trace(*args: Any, **kwargs: Any) -> Any:
    """One inside ours leaves the tracer of ``torch.jit`` broken, and a later one ends the process."""
    raise CaptureError("it calls torch.jit.trace")
