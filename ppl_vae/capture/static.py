"""Shapes that depend on data: refused, for a trace bakes them without an error; those made of constants, kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae import _private as private
from ppl_vae.capture import shims
from ppl_vae.capture.errors import CaptureError, line_in

aten = torch.ops.aten
_NEW = (aten.new_ones.default, aten.new_zeros.default, aten.new_full.default)
_BY_PATTERN = (*_NEW, aten.ones_like.default, aten.zeros_like.default, aten.full_like.default)


def make_static(module: fx.GraphModule) -> list[tuple[Tensor, int]]:
    """Replace selections by constant masks with selections by constant indices, and places that are constant.

    Returns:
        The tensors whose values the masks were made of, with their versions.

    Raises:
        CaptureError: a selection by a mask that depends on data, a parameter or noise; or another operation that has a
            shape depending on data, or that no graph can hold.
    """
    constants: list[tuple[Tensor, int]] = []
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, private.OpOverload):
            continue
        if "mkldnn_rnn" in str(node.target):
            raise CaptureError(f"an LSTM on the CPU runs in an operation of oneDNN that no graph holds{_line(node)}")
        if node.target is aten.index.Tensor:
            if any(i is not None and _is_mask(module, i) for i in node.args[1]):
                constants += _index_by_numbers(module, node)
        elif node.target is aten.nonzero.default:
            constants += _places(module, node)
        elif torch.Tag.dynamic_output_shape in node.target.tags:
            raise CaptureError(f"a shape depends on data, in {node.target}{_line(node)}")
    return constants


def _line(node: fx.Node) -> str:
    return line_in(node.meta.get("stack_trace")) or shims.selection()


def _is_mask(module: fx.GraphModule, node: fx.Node) -> bool:
    value = getattr(module, str(node.target)) if node.op == "get_attr" else node.meta.get("val")
    return getattr(value, "dtype", None) in (torch.bool, torch.uint8)


def _index_by_numbers(module: fx.GraphModule, node: fx.Node) -> list[tuple[Tensor, int]]:
    indices: list[fx.Node | None] = []
    constants: list[tuple[Tensor, int]] = []
    for index in node.args[1]:  # type: ignore[union-attr]
        if index is None or not _is_mask(module, index):  # type: ignore[arg-type]
            indices.append(index)  # type: ignore[arg-type]
            continue
        mask = _value(module, index, constants, node)
        for i, places in enumerate(mask.nonzero(as_tuple=True)):
            name = f"{node.name}_{index}_{i}"
            module.register_buffer(name, places, persistent=False)
            with module.graph.inserting_before(node):
                indices.append(module.graph.get_attr(name))
    node.args = (node.args[0], indices)
    return constants


def _places(module: fx.GraphModule, node: fx.Node) -> list[tuple[Tensor, int]]:
    """``nonzero`` of constants is a constant."""
    constants: list[tuple[Tensor, int]] = []
    module.register_buffer(f"{node.name}_places", _value(module, node, constants, node), persistent=False)
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(f"{node.name}_places"))
    module.graph.erase_node(node)
    return constants


def _value(module: fx.GraphModule, node: Any, constants: list[tuple[Tensor, int]], at: fx.Node) -> Any:
    """The value of a node that is made of constants alone."""
    if isinstance(node, list | tuple):
        return type(node)(_value(module, item, constants, at) for item in node)
    if not isinstance(node, fx.Node):
        return node
    if node.op == "get_attr":
        tensor = getattr(module, str(node.target))
        if not tensor.requires_grad:
            constants.append((tensor, private.version(tensor)))
            return tensor
    elif node.op == "call_function" and isinstance(node.target, private.OpOverload):
        noisy = torch.Tag.nondeterministic_seeded in node.target.tags
        if not noisy and not private.is_mutable(node.target):
            args = _arguments(module, node, constants, at)
            kwargs = {name: _value(module, value, constants, at) for name, value in node.kwargs.items()}
            return node.target(*args, **kwargs)
    raise CaptureError(f"a shape depends on data: rows or entries are selected by a mask{_line(at)}")


def _arguments(module: fx.GraphModule, node: fx.Node, constants: list[tuple[Tensor, int]], at: fx.Node) -> Any:
    """Of a tensor that serves as a pattern, like x in ``ones_like(x)``, only what it looks like is read."""
    if node.target in _BY_PATTERN:
        like = node.args[0].meta["val"]  # type: ignore[union-attr]
        pattern = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
        return pattern, *_value(module, node.args[1:], constants, at)
    return _value(module, node.args, constants, at)
