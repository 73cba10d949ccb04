"""One call of a function over tensors, traced into a graph whose inputs are the caller's own tensors.

The trace runs on real values, so it is itself a call: generators advance once and buffers change once. Every tensor
that the function closes over (parameters, buffers, global data) becomes an input of the graph, and what the function
changes in place, the graph changes in place: there is no second copy of any state.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.graph import CodeGen

from ppl_vae import _private as private
from ppl_vae.capture import shims
from ppl_vae.capture.errors import CaptureError, line_of
from ppl_vae.capture.static import make_static

aten = torch.ops.aten


@dataclass
class Graph:
    """A traced call.

    Attributes:
        module: takes ``inputs + lifted`` and returns a tuple of tensors; changes its arguments in place.
        functional: the same without mutation but for the last copies into its arguments: what a compiler takes.
        lifted: the tensors that the function closed over, live.
        mutated: those among them that a call changes, in place.
        mutated_inputs: the places of the inputs that a call changes, in place.
        constants: tensors whose values were taken as constants, with their versions.
    """

    module: fx.GraphModule
    functional: fx.GraphModule
    lifted: list[Tensor]
    mutated: list[Tensor]
    mutated_inputs: list[int]
    constants: list[tuple[Tensor, int]] = field(default_factory=list)

    @property
    def num_nodes(self) -> int:
        """The operations of the graph."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)

    @cached_property
    def may_fail(self) -> bool:
        """Can the values of a step make an operation raise, as a matrix without a Cholesky factor does?"""
        return any("_linalg_check_errors" in str(node.target) for node in self.module.graph.nodes)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the graph by torch, operation by operation."""
        with torch.no_grad():
            return list(self.module(*inputs, *self.lifted))


def capture(fn: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> tuple[list[Tensor], Graph]:
    """Call ``fn(*inputs)`` and trace it.

    Returns:
        The values of this call, and the graph of the next ones.

    Raises:
        CaptureError: the function does what a graph cannot hold: it looks at values, draws from another generator than
            torch's, makes a shape out of data. The reason names the line.
    """
    inputs = [_alias(tensor) for tensor in inputs]
    before = _foreign_noise()
    values: list[Tensor] = []

    def body(*tensors: Tensor) -> tuple[Tensor, ...]:
        values.extend(fn(*tensors))
        return tuple(values)

    try:
        with shims.active() as constants, warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.fx")
            module = private.make_fx(body, tracing_mode="real", record_stack_traces=True)(*inputs)
            constants = list(constants)
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(_reason(error)) from error
    if _foreign_noise() != before:
        raise CaptureError("it draws from Python's or NumPy's random generator, which a graph cannot")
    constants += make_static(module)
    lifted = _lift(module, len(inputs))
    _forget_detach(module)
    module.graph.set_codegen(CodeGen())
    module.recompile()
    functional = _functionalized(module, [*inputs, *lifted])
    places = _mutated(functional)
    mutated = [lifted[i - len(inputs)] for i in places if i >= len(inputs)]
    _require_no_overlap(lifted, mutated)
    return [value.detach() for value in _values(values)], Graph(
        module, functional, lifted, mutated, [i for i in places if i < len(inputs)], constants
    )


def _alias(tensor: Tensor) -> Tensor:
    """Another tensor on the same memory: a tensor that is both given and closed over must not become one input."""
    return tensor if tensor.requires_grad else tensor.detach()


def _values(values: list[Tensor]) -> list[Tensor]:
    return [torch.as_tensor(value) for value in values]


def _foreign_noise() -> Any:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, np.asarray(keys).tobytes(), rest


def _reason(error: Exception) -> str:
    where = line_of(error.__traceback__)
    message = str(error)
    if "trying to get value out of a tracing tensor" in message or "data-dependent" in message:
        return f"it looks at the value of a tensor, by .item(), bool() or a comparison{where}"
    first = message.strip().partition("\n")[0]
    return f"tracing it raised {type(error).__name__}: {first[:200]}{where}"


def _lift(module: fx.GraphModule, num_inputs: int) -> list[Tensor]:
    """Make every tensor that the graph holds a placeholder after the inputs; one tensor, one placeholder."""
    graph, placeholders = module.graph, dict[int, fx.Node]()
    lifted: list[Tensor] = []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1:] or None
    held = [node for node in graph.nodes if node.op == "get_attr"]
    for node in held:
        tensor = getattr(module, str(node.target))
        if id(tensor) not in placeholders:
            at = graph.inserting_after(last[0]) if last else graph.inserting_before(next(iter(graph.nodes)))
            with at:
                placeholder = graph.placeholder(f"held_{len(lifted)}")
            placeholder.meta["val"] = tensor
            placeholders[id(tensor)] = placeholder
            last = [placeholder]
            lifted.append(tensor)
        node.replace_all_uses_with(placeholders[id(tensor)])
    for node in held:
        graph.erase_node(node)
    return lifted


def _forget_detach(module: fx.GraphModule) -> None:
    """Outside autograd a detach is an alias; left in, it would become a copy."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _functionalized(module: fx.GraphModule, arguments: Sequence[Tensor]) -> fx.GraphModule:
    """The same graph without mutation, but for last copies into the arguments that it changes."""
    plain = [argument.detach() for argument in arguments]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call = torch.func.functionalize(module, remove="mutations_and_views")
            functional = private.make_fx(call, tracing_mode="fake")(*plain)
        except Exception as error:
            raise CaptureError(_reason(error)) from error
    return functional


def _mutated(functional: fx.GraphModule) -> list[int]:
    """The places of the arguments that the graph copies into."""
    order = [node for node in functional.graph.nodes if node.op == "placeholder"]
    copied = {
        node.args[0]
        for node in functional.graph.nodes
        if node.op == "call_function" and node.target is aten.copy_.default
    }
    return [i for i, node in enumerate(order) if node in copied]


def _require_no_overlap(lifted: list[Tensor], mutated: list[Tensor]) -> None:
    """Two tensors on one memory, one of them changed: a functional graph would miss it."""
    changed = {id(tensor) for tensor in mutated}
    owners: dict[int, list[Tensor]] = {}
    for tensor in lifted:
        if tensor.numel():
            owners.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    for together in owners.values():
        if len(together) > 1 and any(id(tensor) in changed for tensor in together):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in together)
            raise CaptureError(f"tensors of shapes {shapes} share memory, and a step changes one of them")
