"""The optimizer's step without its Python: torch's own fused kernels on the optimizer's own state.

``torch.optim`` spends more time in bookkeeping than a small network spends in its whole step. The kernels are called
here directly, on the very tensors of ``optimizer.state``, with the numbers that stand in ``param_groups`` at this
moment: so schedulers work, checkpoints hold the state, and the next step may be the optimizer's own again.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from ppl_vae import _private as private

Group = dict[str, Any]
Kernel = Callable[[list[Tensor], list[Tensor], list[dict[str, Any]], Group], None]


_ONE = torch.ones(())


def _counted(states: list[dict[str, Any]]) -> list[Tensor]:
    """The step counts, raised by one (by a list of ones: a number would take a slow way of torch's)."""
    steps = [state["step"] for state in states]
    private.each_add(steps, [_ONE] * len(steps))
    return steps


def _adam(leaves: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: Group) -> None:
    steps = _counted(states)
    kernel = private.fused_adamw if group.get("decoupled_weight_decay") else private.fused_adam
    kernel(
        leaves,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        steps,
        lr=float(group["lr"]),
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )


def _adamw(leaves: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: Group) -> None:
    _adam(leaves, grads, states, {**group, "decoupled_weight_decay": True})


def _sgd(leaves: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: Group) -> None:
    private.fused_sgd(
        leaves,
        grads,
        [state["momentum_buffer"] for state in states] if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=float(group["lr"]),
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


def _adagrad(leaves: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: Group) -> None:
    steps = _counted(states)
    private.fused_adagrad(
        leaves,
        grads,
        [state["sum"] for state in states],
        steps,
        lr=float(group["lr"]),
        lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _clipped_adam(leaves: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: Group) -> None:
    """Pyro's ClippedAdam, all leaves at once; the decay of its rate is done by :meth:`Update.__call__`."""
    counts = [state["step"] for state in states]
    if any(count != counts[0] for count in counts):  # leaves that have not moved in every step have counts of their own
        for count in set(counts):
            at = [i for i, own in enumerate(counts) if own == count]
            _clipped_adam([leaves[i] for i in at], [grads[i] for i in at], [states[i] for i in at], group)
        return
    beta1, beta2 = group["betas"]
    bound = group["clip_norm"]
    grads = list(private.each_clamp_max(private.each_clamp_min(grads, -bound), bound))
    for state in states:
        state["step"] += 1
    if group["weight_decay"]:
        private.each_add(grads, leaves, alpha=group["weight_decay"])
    means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
    private.each_mul(means, beta1)
    private.each_add(means, grads, alpha=1 - beta1)
    spread = list(private.each_sub(grads, means)) if group.get("centered_variance") else grads
    private.each_mul(squares, beta2)
    private.each_addcmul(squares, spread, spread, value=1 - beta2)
    scale = private.each_sqrt(squares)
    private.each_add(scale, group["eps"])
    count = states[0]["step"]
    rate = group["lr"] * math.sqrt(1 - beta2**count) / (1 - beta1**count)
    private.each_addcdiv(leaves, means, scale, value=-rate)


_KERNELS: dict[type[Optimizer], tuple[Kernel, tuple[str, ...]]] = {
    Adam: (_adam, ("step", "exp_avg", "exp_avg_sq")),
    AdamW: (_adamw, ("step", "exp_avg", "exp_avg_sq")),
    SGD: (_sgd, ()),
    Adagrad: (_adagrad, ("step", "sum")),
    ClippedAdam: (_clipped_adam, ("step", "exp_avg", "exp_avg_sq")),
}


class Update:
    """One step of some optimizers on some leaves, given their gradients.

    Where the kernels do not serve any more (the state was cleared, a hook was added), the optimizers' own steps do.

    Args:
        optimizers: the optimizer of each leaf; state for it must exist.
    """

    def __init__(self, leaves: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        self.leaves, self.optimizers = list(leaves), list(optimizers)
        self._look()

    @staticmethod
    def refuses(leaves: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> str | None:
        """Why the optimizers' own ``step`` must be called, or None."""
        for leaf, optimizer in zip(leaves, optimizers, strict=True):
            name = type(optimizer).__name__
            if type(optimizer) not in _KERNELS:
                return f"{name} has no fused kernel"
            if any(private.step_hooks(optimizer)):
                return f"{name} has hooks"
            needed = _KERNELS[type(optimizer)][1]
            group, state = _group_of(optimizer, leaf), optimizer.state.get(leaf, {})
            if type(optimizer) is SGD and group["momentum"]:
                needed = ("momentum_buffer",)
            if any(state.get(key) is None for key in needed):
                return f"{name} has no state for a parameter yet"
            if group.get("differentiable") or leaf.device.type != "cpu":
                return f"{name} is differentiable, or not on the CPU"
            if not leaf.is_contiguous() or leaf.dtype not in (torch.float32, torch.float64):
                return f"{name} has a parameter that is not contiguous, or not of a float type"
        return None

    def serves(self, leaves: Sequence[Tensor], optimizers: Sequence[Optimizer] | None) -> bool:
        """Is it made for these very leaves and optimizers?"""
        same = optimizers is not None and len(leaves) == len(self.leaves)
        return same and all(map(operator.is_, leaves, self.leaves)) and optimizers == self.optimizers

    def _look(self) -> None:
        """Sort the leaves by optimizer and options."""
        self._different = list({id(optimizer): optimizer for optimizer in self.optimizers}.values())
        for optimizer in self._different:
            private.note_step(optimizer)
        self._is_refused = self.refuses(self.leaves, self.optimizers) is not None
        self._groups = [_group_of(o, leaf) for o, leaf in zip(self.optimizers, self.leaves, strict=True)]
        self._distinct = list({id(group): group for group in self._groups}.values())
        self._states = [o.state.get(leaf, {}) for o, leaf in zip(self.optimizers, self.leaves, strict=True)]
        self._keep = [list(optimizer.state.values()) for optimizer in self._different]  # no identity is given out twice
        jobs: dict[Hashable, list[int]] = {}
        for i, (optimizer, group, state) in enumerate(zip(self.optimizers, self._groups, self._states, strict=True)):
            options = tuple((k, id(v) if isinstance(v, Tensor) else v) for k, v in group.items() if k in _OPTIONS)
            count = state["step"] if isinstance(state.get("step"), int) else None
            jobs.setdefault((type(optimizer), self.leaves[i].dtype, options, count), []).append(i)
        self._jobs = [
            (
                _KERNELS[type(self.optimizers[places[0]])][0],
                places,
                [self.leaves[i] for i in places],
                [self._states[i] for i in places],
                self._groups[places[0]],
            )
            for places in jobs.values()
        ]
        self._decaying = [g for g in self._distinct if g.get("lrd", 1.0) != 1.0]
        self._known = self._now()

    def _now(self) -> list[Any]:
        """The options, the homes of the state and the number of hooks, to be compared."""
        seen: list[Any] = []
        for optimizer in self._different:
            seen += map(id, optimizer.state.values())
            seen += map(len, private.step_hooks(optimizer))
            for group in optimizer.param_groups:
                seen += group.values()
        return seen

    def __call__(self, grads: Sequence[Tensor]) -> None:
        """Move the leaves."""
        if self._now() != self._known:
            self._look()
        self.again(grads)

    def again(self, grads: Sequence[Tensor]) -> None:
        """Move the leaves once more, where nobody can have changed an option since the last time."""
        if self._is_refused:
            self._step_themselves(grads)
            return
        if self._decaying:
            for group in self._decaying:
                group["lr"] *= group["lrd"]
            self._known = self._now()
        with torch.no_grad():
            for kernel, places, leaves, states, group in self._jobs:
                kernel(leaves, [grads[i] for i in places], states, group)

    def _step_themselves(self, grads: Sequence[Tensor]) -> None:
        """The optimizers' own steps, and the caller's ``.grad`` given back after them."""
        before = [leaf.grad for leaf in self.leaves]
        for leaf, grad in zip(self.leaves, grads, strict=True):
            leaf.grad = grad
        try:
            for optimizer in self._different:
                optimizer.step()
        finally:
            for leaf, own in zip(self.leaves, before, strict=True):
                leaf.grad = own
        self._known = []  # they may have made the state that was missing


_OPTIONS = (
    "lr",
    "betas",
    "eps",
    "weight_decay",
    "decoupled_weight_decay",
    "amsgrad",
    "maximize",
    "momentum",
    "dampening",
    "nesterov",
    "lr_decay",
    "clip_norm",
    "lrd",
    "centered_variance",
)


def _group_of(optimizer: Optimizer, leaf: Tensor) -> Group:
    for group in optimizer.param_groups:
        if any(member is leaf for member in group["params"]):
            return group
    raise KeyError("the optimizer does not hold this parameter")
