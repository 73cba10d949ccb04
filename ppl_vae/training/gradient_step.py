"""The gradient step of variational inference: noise from its place, gradients from the objective, an update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from ppl_vae.training.finite import Finite
from ppl_vae.training.nonfinite import diagnose, explained
from ppl_vae.training.optimizers import described, load_optimizer_state, optimizer_state
from ppl_vae.training.rates import Rates
from ppl_vae.training.subset import EVERYONE, GROUPS, Subset
from ppl_vae.training.undo import copied

__all__ = ["GradientStep", "Moves", "buffers_by_name", "leaves_by_group"]

OK = -1
Moves = Callable[[int], Subset | Iterable[str]]


class GradientStep:
    """A step of a pair under an objective; call it inside ``pair.scope()`` and ``isolated_rng()``.

    Its stages: gradients, *reduce* (nothing here: the place where processes add theirs up, before a norm is taken),
    clip, *finite* (the loss and the norm of the gradient), update, and at each check *finite* again (the parameters).
    The state that a step changes is all in the caller's own tensors: parameters, buffers, optimizer state.

    Args:
        optimizer: over the leaves of :func:`leaves_by_group`.
        moves: which parameters step t moves: a :class:`Subset`, or names of groups.
        clip_norm: bound on the norm of the gradient of -L/N over all leaves that move, or None.
        lr_scheduler: factory of a torch scheduler, stepped after every epoch (or :class:`EachStep`).
        seed, rank: the noise of a step is a function of (seed, step, rank).
        compilation: which steps run compiled; None: none does.
        latched: leave it to a check in 50 steps to ask whether one has failed, as is done on a device.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        moves: Moves = lambda step: EVERYONE,
        clip_norm: float | None = None,
        lr_scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        seed: int = 0,
        rank: int = 0,
        compilation: Compilation | None = None,
        latched: bool | None = None,
    ) -> None:
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {clip_norm}")
        self.pair, self.objective, self.optimizer, self.moves = pair, objective, optimizer, moves
        self.clip_norm, self.seed, self.rank = clip_norm, seed, rank
        self.leaves = leaves_by_group(pair, objective)
        self.buffers = buffers_by_name(pair, objective)
        self.rates = Rates(optimizer, lr_scheduler)
        self.compilation = compilation
        self.latched = pair.device.type != "cpu" if latched is None else latched
        self._fast: Update | None = None
        self._failed = torch.full((), OK, dtype=torch.long, device=pair.device)
        named = {name: leaf for members in self.leaves.values() for name, leaf in members.items()}
        self._watched = Finite(named, pair.parameters.constraints, self.buffers)
        self._lost: str | None = None
        self._subsets: dict[Subset, dict[str, dict[str, Tensor]]] = {}
        parts = {id(part): part for module in pair.modules() for part in module.modules()}
        self._scheduled: list[Any] = [part for part in parts.values() if hasattr(part, "begin_step")]

    def everything(self) -> list[Tensor]:
        """Every leaf that some phase moves."""
        return [leaf for members in self.leaves.values() for leaf in members.values()]

    # -- one step ------------------------------------------------------------------------------------------------------

    def __call__(self, batch: Batch, step: int, moving: Subset | Iterable[str] | None = None) -> Tensor:
        """Make step ``step`` (counted from 0) on ``batch``; leaves outside what is ``moving`` keep every bit.

        Returns:
            The report (4,): objective, elbo, reconstruction, kl, nats per datum, on the device.
        """
        subset = Subset.of(self.moves(step) if moving is None else moving)
        self.seed_noise(step)
        self.begin(step)
        for leaf in self.everything():
            leaf.grad = None
        still = self._buffers_of_resting(subset)
        with explained(self, batch, step):
            captured = self._captured(batch, step, subset)
            report, fine = captured or self._gradients(batch, subset)
        if captured is None and (late := self.pair.newcomers()):
            raise ValueError(
                f"fit: {', '.join(map(repr, late))} first appeared in step {step}, after the optimizer was made, and "
                "would never be trained; let the first run reach it: declare it before the branch that uses it"
            )
        self.update(step, fine, partial(private.step, self.optimizer) if captured is None else self._move)
        for buffer, value in still:
            buffer.copy_(value)
        self.rates.after_step()
        return report

    def by_hand(self, batch: Batch, step: int, moving: Subset | Iterable[str]) -> Tensor:
        """The same, outside a run: what is not finite is said at once, and everything is as before it."""
        before = {name: tensor.detach().clone() for name, tensor in self.tensors().items()}
        state = copied(self.state())
        try:
            report = self(batch, step, moving)
            failed = self.failed()
        except BaseException:
            self._put_back(before, state)
            raise
        if failed:
            self._put_back(before, state)
            raise self.explain(batch, step)
        return report

    @torch.no_grad()
    def _put_back(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.load_state(state)

    def _gradients(self, batch: Batch, subset: Subset) -> tuple[Tensor, Tensor]:
        """The stages before the update: the report, and whether all is finite. This is what is captured."""
        report = self.objective.gradients(self.pair, batch, self.moving_leaves(subset))
        self.reduce(subset)
        return report, self.finite(report, self.clip(subset))

    def reduce(self, subset: Subset) -> None:
        """Make the gradients those of all rows: here, where one process has them all, they are already."""

    def clip(self, subset: Subset) -> Tensor:
        """Scale the gradients down to the bound on their norm; the norm before that, ()."""
        leaves = [leaf for members in self.moving_leaves(subset).values() for leaf in members if leaf.grad is not None]
        grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
        norm = get_total_norm(grads) if leaves else torch.zeros((), device=self.pair.device)
        if self.clip_norm is not None and leaves:
            clip_grads_with_norm_(leaves, self.clip_norm, norm)
        return norm

    def finite(self, report: Tensor, norm: Tensor) -> Tensor:
        """Are the loss and the norm of the gradient finite, ()? A norm that overflows counts as if it were not."""
        return torch.isfinite(report[0]) & torch.isfinite(norm)

    def update(self, step: int, fine: Tensor, move: Callable[[], object]) -> None:
        """Move the leaves, unless this step or one before it has failed.

        On the CPU a look costs nothing. On a device nobody waits for the answer: kernels that take ``found_inf`` move
        nothing by themselves; others move what :class:`Undo` takes back.
        """
        if self.latched:
            self._failed.copy_(torch.where(fine | (self._failed != OK), self._failed, step))
            with self._held_where_it_failed():
                move()
        elif not self.has_stopped:
            if bool(fine):
                move()
            else:
                self._failed.fill_(step)

    @contextmanager
    def _held_where_it_failed(self) -> Iterator[None]:
        """Let fused kernels see, on the device, whether they are to move anything."""
        optimizer: Any = self.optimizer
        if not all(group.get("fused") for group in optimizer.param_groups):
            yield
            return
        optimizer.found_inf = (self._failed != OK).to(torch.float32)
        try:
            yield
        finally:
            del optimizer.found_inf

    def _captured(self, batch: Batch, step: int, subset: Subset) -> tuple[Tensor, Tensor] | None:
        """The same by a graph, if this step is to run by one."""
        if self.compilation is None:
            return None
        leaves = [leaf for members in self.moving_leaves(subset).values() for leaf in members]
        result = self.compilation.captured(lambda b: self._gradients(b, subset), batch, step, subset, leaves)
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

    # -- what moves ----------------------------------------------------------------------------------------------------

    def moving_leaves(self, moving: Subset | Iterable[str] = EVERYONE) -> dict[str, list[Tensor]]:
        """The leaves of a subset, by group.

        Raises:
            ValueError: a pattern of names matches no parameter.
        """
        subset = Subset.of(moving)
        if subset not in self._subsets:
            self._subsets[subset] = self._chosen(subset)
        return {group: list(members.values()) for group, members in self._subsets[subset].items()}

    def _chosen(self, subset: Subset) -> dict[str, dict[str, Tensor]]:
        names = [name for members in self.leaves.values() for name in members]
        if idle := subset.idle(names):
            raise ValueError(
                f"schedule: {', '.join(map(repr, idle))} matches no parameter; the parameters are {', '.join(names)}"
            )
        return {
            group: {name: leaf for name, leaf in self.leaves[group].items() if subset.holds(name, group)}
            for group in GROUPS
            if group in subset.groups
        }

    def _buffers_of_resting(self, subset: Subset) -> list[tuple[Tensor, Tensor]]:
        """Copies of the buffers (running means) of what rests, to be put back after the step."""
        sides = {"model": "theta", "guide": "phi"}
        found = []
        for name, buffer in self.buffers.items():
            side = next((side for side in sides if name.startswith(side)), None)
            if side is not None and not subset.holds(name, sides[side]):
                found.append((buffer, buffer.clone()))
        return found

    # -- as a Step -----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter that is trained, and buffer, by name, live."""
        leaves = {name: leaf for members in self.leaves.values() for name, leaf in members.items()}
        return {**leaves, **{f"buffer.{name}": buffer for name, buffer in self.buffers.items()}}

    def state(self) -> dict[str, Any]:
        """The optimizer by parameter name, the schedule of its rates, and which steps run compiled."""
        names = {id(tensor): name for name, tensor in self.tensors().items()}
        return {
            "optimizer": optimizer_state(self.optimizer, names),
            "scheduler": self.rates.state(),
            "compiled": {} if self.compilation is None else self.compilation.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        load_optimizer_state(self.optimizer, state["optimizer"], self.tensors())
        self.rates.load_state(state["scheduler"])
        if self.compilation is not None:
            self.compilation.load_state(state.get("compiled", {}))
        self._failed.fill_(OK)

    def fingerprint(self) -> dict[str, Any]:
        """Optimizer, rates, and bounds."""
        return {
            "optimizer": described(self.optimizer),
            "lr": self.rates.initial,
            "clip_norm": self.clip_norm,
            "lr_scheduler": None if self.rates.scheduler is None else type(self.rates.scheduler).__name__,
        }

    @property
    def has_stopped(self) -> bool:
        """Has a step met a loss or a gradient that is not finite? False where a device would have to be asked."""
        return not self.latched and int(self._failed) != OK

    def failed(self) -> bool:
        """Was a loss, the norm of a gradient, a parameter or a buffer not finite? (One that never was: passed over.)"""
        if int(self._failed) != OK:
            self._lost = None
            return True
        lost = self._watched.lost()
        self._lost = lost or self._lost  # still known when the run has gone back to before it
        return lost is not None

    def explain(self, batch: Batch, step: int) -> Exception:
        """Which site or parameter was not finite first, found by making the step once more on its noise."""
        return diagnose(self, batch, step, lost=self._lost)

    def measure(self, batch: Batch) -> Tensor:
        """The report of the objective, without a step."""
        return self.objective.measure(self.pair, batch)

    def row(self) -> dict[str, float]:
        """The learning rate, of the first group."""
        return {"lr": self.optimizer.param_groups[0]["lr"]}

    def before_run(self, target: int) -> None:
        """Let the rule for compiling know how many steps there will be."""
        if self.compilation is not None:
            self.compilation.target = target

    def listen(self, say: Callable[[str], None], asked: Callable[[], bool] = lambda: False) -> None:
        """Tell what a step waits for (the compiler), and wait no longer when an end has been asked for."""
        if self.compilation is not None:
            self.compilation.listen(say, asked)

    @property
    def waits_for_epochs(self) -> bool:
        """Is there a schedule that advances after each epoch?"""
        return self.rates.by_epoch

    def after_epoch(self, row: dict[str, Any]) -> None:
        """Advance a schedule by epoch."""
        self.rates.after_epoch(row)


def leaves_by_group(pair: Pair, objective: Objective) -> dict[str, dict[str, Tensor]]:
    """Every leaf by group and name: θ, φ, what both share, and the objective's own ψ, moved to where the pair is."""
    objective.to(pair.device, pair.dtype)
    groups = {group: pair.parameters.of(group) for group in ("theta", "phi", "shared")}
    return {**groups, "psi": {f"objective.{name}": leaf for name, leaf in objective.parameters().items()}}


def buffers_by_name(pair: Pair, objective: Objective) -> dict[str, Tensor]:
    """What a forward pass may change in place: buffers of the pair's modules, and the objective's own."""
    return {**pair.buffers_by_name(), **{f"objective.{name}": b for name, b in objective.buffers().items()}}
