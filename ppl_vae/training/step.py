"""One gradient step: noise from its place, gradients from the objective, a guard, an update."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ppl_vae import _private as private
from ppl_vae._random import fold, seed_generators
from ppl_vae.capture import Update
from ppl_vae.data.rows import Batch
from ppl_vae.objectives import Objective
from ppl_vae.pair import Pair
from ppl_vae.training.compilation import Compilation
from ppl_vae.training.guard import Guard

GROUPS = ("theta", "phi", "shared", "psi")
EVERYONE = frozenset(GROUPS)


class GradientStep:
    """A step of a pair under an objective; call it inside ``pair.scope()`` and ``isolated_rng()``.

    The state that a step changes is all in the caller's own tensors: parameters, buffers, optimizer state.

    Args:
        optimizer: over the leaves of :meth:`leaves`.
        clip_norm: bound on the norm of the gradient of -L/N over all leaves that move, or None.
        seed, rank: the noise of a step is a function of (seed, step, rank).
        compilation: which steps run compiled; None: none does.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
        seed: int = 0,
        rank: int = 0,
        guard: Guard | None = None,
        compilation: Compilation | None = None,
    ) -> None:
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {clip_norm}")
        self.pair, self.objective, self.optimizer = pair, objective, optimizer
        self.clip_norm, self.seed, self.rank = clip_norm, seed, rank
        self.leaves = leaves_by_group(pair, objective)
        self.buffers = buffers_by_name(pair, objective)
        self.guard = guard or Guard(self.everything(), list(self.buffers.values()), optimizer, pair.device)
        self.compilation = compilation
        self._fast: Update | None = None
        parts = {id(part): part for module in pair.modules() for part in module.modules()}
        self._scheduled: list[Any] = [part for part in parts.values() if hasattr(part, "begin_step")]

    def everything(self) -> list[Tensor]:
        """Every leaf that some phase moves."""
        return [leaf for members in self.leaves.values() for leaf in members.values()]

    def __call__(self, batch: Batch, step: int, moving: Iterable[str] = EVERYONE) -> Tensor:
        """Make step ``step`` (counted from 0) on ``batch``; leaves outside the groups ``moving`` keep every bit.

        Returns:
            The report (4,): objective, elbo, reconstruction, kl, nats per datum, on the device.
        """
        moving = frozenset(moving)
        self.seed_noise(step)
        self.begin(step)
        for leaf in self.everything():
            leaf.grad = None
        self.guard.before()
        still = self._buffers_of_resting(moving)
        try:
            captured = self._captured(batch, step, moving)
            report, fine = captured or self._gradients(batch, moving)
        except BaseException:
            self.guard.restore()  # the guide may have moved its running means before the model broke
            raise
        self.guard.update(step, fine, partial(private.step, self.optimizer) if captured is None else self._move)
        for buffer, value in still:
            buffer.copy_(value)
        return report

    def _gradients(self, batch: Batch, moving: frozenset[str]) -> tuple[Tensor, Tensor]:
        """Put clipped gradients into ``.grad``; the report, and whether all is finite. This is what is captured."""
        report = self.objective.gradients(self.pair, batch, self.moving_leaves(moving))
        return report, torch.isfinite(report[0]) & torch.isfinite(self._clip(moving))

    def _captured(self, batch: Batch, step: int, moving: frozenset[str]) -> tuple[Tensor, Tensor] | None:
        """The same by a graph, if this step is to run by one."""
        if self.compilation is None:
            return None
        leaves = [leaf for members in self.moving_leaves(moving).values() for leaf in members]
        result = self.compilation.captured(lambda b: self._gradients(b, moving), batch, step, moving, leaves)
        if result is None:
            return None
        (report, fine), grads = result
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
        return report, fine

    def _move(self) -> None:
        """The optimizer's step by its fused kernels, where it has some."""
        leaves = [leaf for leaf in self.everything() if leaf.grad is not None]
        optimizers = [self.optimizer] * len(leaves)
        if self._fast is None or not self._fast.serves(leaves, optimizers):
            self._fast = Update(leaves, optimizers) if Update.refuses(leaves, optimizers) is None else None
        if self._fast is not None:
            self._fast([leaf.grad for leaf in leaves])  # type: ignore[misc]
        else:
            self.optimizer.step()

    def begin(self, step: int) -> None:
        """Let schedules take their values at this step: those of the objective, and those of modules with any."""
        self.objective.begin_step(step)
        for module in self._scheduled:
            module.begin_step(step)

    def seed_noise(self, step: int) -> None:
        """Put torch's generators where this step's noise begins."""
        seed_generators(fold(self.seed, "step", step, self.rank), self.pair.device)

    def moving_leaves(self, moving: Iterable[str] = EVERYONE) -> dict[str, list[Tensor]]:
        """The leaves of these groups."""
        return {group: list(self.leaves[group].values()) for group in GROUPS if group in moving}

    def _clip(self, moving: frozenset[str]) -> Tensor:
        leaves = [leaf for members in self.moving_leaves(moving).values() for leaf in members if leaf.grad is not None]
        norm = (
            get_total_norm([leaf.grad for leaf in leaves if leaf.grad is not None])
            if leaves
            else torch.zeros((), device=self.pair.device)
        )
        if self.clip_norm is not None and leaves:
            clip_grads_with_norm_(leaves, self.clip_norm, norm)
        return norm

    def _buffers_of_resting(self, moving: frozenset[str]) -> list[tuple[Tensor, Tensor]]:
        """Copies of the buffers (running means) of a side that rests, to be put back after the step."""
        resting = [side for side, group in (("model", "theta"), ("guide", "phi")) if group not in moving]
        return [(b, b.clone()) for name, b in self.buffers.items() if name.startswith(tuple(resting) or ("\0",))]


def leaves_by_group(pair: Pair, objective: Objective) -> dict[str, dict[str, Tensor]]:
    """Every leaf by group and name: θ, φ, what both share, and the objective's own ψ, moved to where the pair is."""
    objective.to(pair.device, pair.dtype)
    groups = {group: pair.parameters.of(group) for group in ("theta", "phi", "shared")}
    return {**groups, "psi": {f"objective.{name}": leaf for name, leaf in objective.parameters().items()}}


def buffers_by_name(pair: Pair, objective: Objective) -> dict[str, Tensor]:
    """What a forward pass may change in place: buffers of the pair's modules, and the objective's own."""
    return {**pair.buffers_by_name(), **{f"objective.{name}": b for name, b in objective.buffers().items()}}
