"""Optimizers over named leaves, and their state by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor

from ppl_vae._private import without_compiler

OptimizerFactory = Callable[..., torch.optim.Optimizer]
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)


def build_optimizer(
    factory: OptimizerFactory | PyroOptim, leaves: Mapping[str, Mapping[str, Tensor]], rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """One optimizer over all leaves, a parameter group for each group of the pair.

    Args:
        factory: a torch optimizer class, a partial of one, or any function of (groups, lr); a ``pyro.optim`` optimizer
            is taken by its torch class and its options.
        leaves: by group and name.
        rates: the learning rate of each group.
    """
    factory, options = _unwrap(factory)
    groups = [
        {"params": list(members.values()), "lr": options.get("lr", rates[group]), "name": group}
        for group, members in leaves.items()
        if members
    ]
    if not groups:
        raise ValueError("fit: the pair has no parameters to train; register them with pyro.param or pyro.module")
    with without_compiler():
        return factory(groups, **options)


def _unwrap(factory: Any) -> tuple[OptimizerFactory, dict[str, Any]]:
    options: dict[str, Any] = {}
    if isinstance(factory, PyroOptim):
        if not isinstance(factory.pt_optim_args, dict):
            raise TypeError(
                "optimizer: a pyro.optim optimizer with a dictionary of options is required, got a callable"
            )
        if factory.pt_clip_args or isinstance(factory, PyroLRScheduler):
            raise TypeError(
                "optimizer: a pyro.optim optimizer without clipping and schedule is required; give clip_norm= and "
                "lr_scheduler= instead"
            )
        factory, options = factory.pt_optim_constructor, dict(factory.pt_optim_args)
    if not callable(factory):
        raise TypeError(f"optimizer: a torch optimizer class (or a partial of one) is required, got {factory!r}")
    # The fused update is several times faster on small networks; a choice that the caller has made stands.
    chosen = factory.keywords if isinstance(factory, functools.partial) else options
    target = factory.func if isinstance(factory, functools.partial) else factory
    if target in _FUSED and not {"fused", "foreach", "differentiable", "capturable"} & set(chosen):
        options = {**options, "fused": True}
    return factory, options


def described(optimizer: torch.optim.Optimizer) -> str:
    """Its name and options, without its rate."""
    options = ", ".join(f"{k}={v!r}" for k, v in optimizer.defaults.items() if k != "lr")
    return f"{type(optimizer).__name__}({options})"


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """The optimizer's state as a plain tree: by parameter name, and the options of each group."""
    state = {names[id(leaf)]: dict(values) for leaf, values in optimizer.state.items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return {"state": state, "groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], leaves: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_state` gave, into tensors of the leaves' device.

    Raises:
        ValueError: an option or a value is of another kind than the optimizer's own.
    """
    _require_kinds(optimizer, state)
    for group, saved in zip(optimizer.param_groups, state["groups"], strict=True):
        group.update({k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in saved.items()})
    optimizer.state.clear()
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for name, values in state["state"].items():
        leaf = leaves[name]
        optimizer.state[leaf] = {
            key: value.to("cpu" if key == "step" and not on_device else leaf.device, copy=True)
            if isinstance(value, Tensor)
            else value
            for key, value in values.items()
        }


def _require_kinds(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """An option is of the kind that it has now; what is remembered under one name is of one kind for all leaves."""
    for group, saved in zip(optimizer.param_groups, state["groups"], strict=True):
        for key, value in saved.items():
            if key in group and not _is_alike(group[key], value):
                raise ValueError(f"optimizer: {key} must be of the kind of {group[key]!r}, got {value!r}")
    first: dict[str, Any] = {}
    for name, values in state["state"].items():
        for key, value in values.items():
            if not _is_alike(first.setdefault(key, value), value):
                raise ValueError(f"optimizer: {key} of {name} must be of one kind for all, got {value!r}")


def _is_alike(one: Any, other: Any) -> bool:
    if _kind(one) != _kind(other):
        return False
    if _kind(one) == "list":
        return len(one) == len(other) and all(map(_is_alike, one, other))
    return _kind(one) != "number" or math.isfinite(one) == math.isfinite(other)


def _kind(value: Any) -> str:
    kinds = {bool: "switch", type(None): "switch", int: "number", float: "number", tuple: "list"}
    return "tensor" if isinstance(value, Tensor) else kinds.get(type(value), type(value).__name__)
