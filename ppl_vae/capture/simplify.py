"""A graph with less to do: what nobody reads is left out, and what is the same along an axis is calculated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ppl_vae import _private as private

aten = torch.ops.aten

_UNARY = {
    f"aten.{name}.default" for name in ("exp", "log", "log1p", "neg", "reciprocal", "rsqrt", "sigmoid", "softplus")
}
_UNARY |= {f"aten.{name}.default" for name in ("sqrt", "square", "_to_copy")}
_UNARY |= {f"aten.{name}.Tensor" for name in ("add", "div", "mul", "sub")} | {"aten.pow.Tensor_Scalar"}
"""Operations that treat each number by itself, given one tensor and numbers."""


def simplify(module: fx.GraphModule) -> None:
    """Change the graph in place; its values and its draws stay, to the bit."""
    while _narrowed(module.graph):
        pass
    module.graph.eliminate_dead_code(is_impure_node=_draws_or_changes)
    module.recompile()


def _narrowed(graph: fx.Graph) -> bool:
    """An operation on an expanded tensor becomes the expanded result of the operation on what was expanded."""
    changed = False
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if node.op != "call_function" or str(node.target) not in _UNARY or not _is_expanded(source):
            continue
        if any(isinstance(arg, fx.Node) for arg in (*node.args[1:], *node.kwargs.values())):
            continue
        small: Any = source.args[0]  # type: ignore[union-attr]
        with graph.inserting_before(node):
            found = graph.call_function(node.target, (small, *node.args[1:]), dict(node.kwargs))
            wide = graph.call_function(aten.expand.default, (found, source.args[1]))  # type: ignore[union-attr]
        for new, like in ((found, small), (wide, node)):
            new.meta.update({key: value for key, value in like.meta.items() if key == "stack_trace"})
        node.replace_all_uses_with(wide)
        graph.erase_node(node)
        changed = True
    return changed


def _is_expanded(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is aten.expand.default


def _draws_or_changes(node: fx.Node) -> bool:
    """Is a call worth making though nobody reads its value?"""
    if node.op in ("placeholder", "output"):
        return True
    target = node.target
    if not isinstance(target, private.OpOverload):
        return node.op == "call_function" and node.is_impure()
    return torch.Tag.nondeterministic_seeded in target.tags or private.is_mutable(target)
