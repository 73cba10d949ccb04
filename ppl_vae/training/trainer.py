"""The loop: epochs of gradient steps, checks, callbacks, checkpoints; it knows nothing of EM."""

from __future__ import annotations

import copy
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.batches import Batches
from ppl_vae.data.rows import Batch
from ppl_vae.objectives import COLUMNS, Objective
from ppl_vae.pair import Pair
from ppl_vae.pair.scope import validation as validated
from ppl_vae.storage import save_tree
from ppl_vae.training.callbacks import Callback
from ppl_vae.training.compilation import Choice, Compilation
from ppl_vae.training.history import History
from ppl_vae.training.interrupts import Interrupt, deferred_interrupt
from ppl_vae.training.nonfinite import NonFiniteError, diagnose, explained
from ppl_vae.training.optimizers import EachStep, load_optimizer_state, optimizer_state
from ppl_vae.training.progress import Progress
from ppl_vae.training.step import EVERYONE, GradientStep, buffers_by_name
from ppl_vae.training.threads import is_small, one_thread

CHECK_EVERY = 50
STATE_FORMAT = 1
Moves = Callable[[int], Iterable[str]]


class ResumeError(ValueError):
    """A checkpoint belongs to another run than the one that was asked for."""


class Trainer:
    """A run: its pair, its place (step, epoch, position), its history, and all that a checkpoint must hold.

    The order of the data is a function of (seed, epoch), the noise of a step of (seed, step): so the state is
    parameters, buffers, optimizer, schedules and the place, and a resumed run equals an uninterrupted one to the bit.

    Args:
        batches: where mini-batches come from.
        moves: which parameter groups step t moves.
        validation: batches whose report is added to each row of the history as ``val_*``.
        lr_scheduler: factory of a torch scheduler, stepped after every epoch (or :class:`EachStep`).
        compile: which steps run compiled; see :class:`Compilation`.
        checkpoint, every: file of the state, written every ``every`` steps (default: after each epoch).
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        *,
        seed: int = 0,
        moves: Moves = lambda step: EVERYONE,
        clip_norm: float | None = None,
        lr_scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        validation: Batches | None = None,
        callbacks: Iterable[Callback] = (),
        checkpoint: Path | None = None,
        every: int | None = None,
        fingerprint: dict[str, Any] | None = None,
        compile: Choice = "auto",
    ) -> None:
        self.pair, self.objective, self.optimizer, self.batches = pair, objective, optimizer, batches
        self.seed, self.moves, self.validation = seed, moves, validation
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"fit: every must be a whole number of steps, at least 1, got {every!r}")
        with pair.scope():  # its lock: reading a batch uses torch's global generator for a moment
            first = batches.at(seed, 0, 0)
        self.compilation = Compilation(
            compile,
            {"model": pair.model, "guide": pair.guide, "objective": objective},
            moves=moves,
            per_epoch=batches.per_epoch,
            usual_size=first.size,
            device=pair.device.type,
        )
        self.gradient_step = GradientStep(
            pair, objective, optimizer, clip_norm=clip_norm, seed=seed, compilation=self.compilation
        )
        rates = {group.get("name", "all"): group["lr"] for group in optimizer.param_groups}
        self.scheduler = lr_scheduler(optimizer) if lr_scheduler is not None else None
        self._schedule_each_step = isinstance(lr_scheduler, EachStep)
        if self._schedule_each_step and isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ValueError("EachStep: ReduceLROnPlateau looks at whole epochs; give it without EachStep")
        self.callbacks, self.checkpoint, self.every = list(callbacks), checkpoint, every
        self.fingerprint = {
            "seed": seed,
            **batches.fingerprint(),
            **(fingerprint or {}),
            "optimizer": _described(optimizer),
            "lr": rates,
            "clip_norm": clip_norm,
            "lr_scheduler": None if self.scheduler is None else type(self.scheduler).__name__,
            "callbacks": [type(callback).__name__ for callback in self._remembering()],
        }
        self.step = self.epoch = self.position = 0
        self.history, self.seconds, self.ended = History(), 0.0, "not started"
        self._stop_reason: str | None = None
        self._frozen: dict[str, Any] | None = None
        self._whole = True  # False inside a step: there the state is none to go on from
        self._schedule_before: tuple[int, Any, Any] = (0, None, None)
        self._is_small = is_small(
            sum(leaf.numel() for leaf in self.gradient_step.everything()),
            (first.size or 1) * objective.num_particles,
            sum(t.numel() for t in first.args if isinstance(t, Tensor)),
        )
        self._epochs_are_watched = bool(self.callbacks or validation or self.scheduler or (checkpoint and not every))
        self._watches_steps = any(type(c).on_step is not Callback.on_step for c in self.callbacks)

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, *, epochs: int | None = None, steps: int | None = None, progress: bool = True) -> None:
        """Go on until ``epochs`` or ``steps`` have been made in all (counted from the very first).

        Raises:
            NonFiniteError: when a loss or gradient was not finite; everything is as before that step.
        """
        target = self.compilation.target = self.steps_in(epochs, steps)
        if self._frozen is not None:  # a callback has changed the parameters after the last step
            self.load_state(self._frozen)
            self._frozen = None
        self._stop_reason = None
        started = time.perf_counter()
        bar = Progress(target, self.step, enabled=progress)
        try:
            with deferred_interrupt() as interrupt, self.pair.mode(training=True):
                self.ended = self._run(target, bar, interrupt)
        except KeyboardInterrupt:
            self.ended = "interrupted"
        except NonFiniteError as error:
            self.ended, error.fit = "non-finite", self.pair
            raise
        except BaseException:
            self.ended = "failed"
            raise
        finally:
            self.seconds += time.perf_counter() - started
            self._finish()
            bar.close()

    def steps_in(self, epochs: int | None, steps: int | None) -> int:
        """The number of steps that ``epochs`` or ``steps`` asks for."""
        if (epochs is None) == (steps is None):
            raise ValueError(f"fit: give either epochs= or steps=, got epochs={epochs}, steps={steps}")
        count: Any = epochs if epochs is not None else steps
        if isinstance(count, bool) or not hasattr(count, "__index__") or operator.index(count) < 0:
            raise ValueError(
                f"fit: {'epochs' if steps is None else 'steps'} must be a whole number >= 0, got {count!r}"
            )
        return operator.index(count) * (self.batches.per_epoch if steps is None else 1)

    def _run(self, target: int, bar: Progress, interrupt: Interrupt) -> str:
        if self.step < target:
            self._tell(lambda callback: callback.on_start(self))
        while self.step < target:
            self._advance(target, interrupt)
            self._check()
            self._close_epoch_if_over()
            if bar.is_shown or self.history.waiting >= CHECK_EVERY:
                self.history.read()
            bar.show(self.step, self.history.rows[-1] if self.history.rows else None)
            self._save_if_due()
            if interrupt.requested:
                return "interrupted"
            if self._stop_reason is not None:
                return self._stop_reason
        return "completed"

    def _advance(self, target: int, interrupt: Interrupt) -> None:
        """Steps up to the next check, or the end of the epoch. Python's locks are held, and nothing asks the device."""
        count = min(CHECK_EVERY if not self._watches_steps else 1, target - self.step)
        if self.checkpoint is not None and self.every is not None:
            count = min(count, self.every - self.step % self.every)
        guard = self.gradient_step.guard
        first_epoch = self.epoch == 0  # it sees every row once, with argument checks on
        self._remember_schedule()
        with (
            self.pair.scope(),
            isolated_rng(None, self.pair.device),
            validated(first_epoch),
            one_thread(self._is_small),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            for batch in islice(self._ahead(), count):
                self._make_step(batch)
                if interrupt.requested or (not guard.latched and guard.failed_step() is not None):
                    break

    def _ahead(self) -> Iterator[Batch]:
        """Batches from here on: to the end of the epoch if somebody waits for it, else across its end."""
        while True:
            yield from self.batches.epoch(self.seed, self.epoch, self.position)
            if self.epoch == 0 or self._epochs_are_watched or self.gradient_step.guard.latched:
                return
            self._close_epoch_if_over()

    def _make_step(self, batch: Batch) -> None:
        self._whole = False
        with explained(self.gradient_step, batch, self.step):
            report = self.gradient_step(batch, self.step, self.moves(self.step))
        self.history.add(report, batch.size or 1)
        self.step += 1
        self.position += 1
        if self.scheduler is not None and self._schedule_each_step:
            self.scheduler.step()
        self._whole = True
        if self._watches_steps:
            self._tell(lambda callback: callback.on_step(self, report))

    def _tell(self, event: Callable[[Callback], None]) -> None:
        """Every callback is told, even where one of them asks for the end by a KeyboardInterrupt."""
        for callback in self.callbacks:
            try:
                event(callback)
            except KeyboardInterrupt:
                self.stop("interrupted")

    def _check(self) -> None:
        failed = self.gradient_step.guard.failed_step()
        if failed is None:
            return
        self._rewind(failed)
        with self.pair.scope(), isolated_rng(None, self.pair.device):
            batch = self.batches.at(self.seed, self.epoch, self.position)
            raise diagnose(self.gradient_step, batch, failed)

    def _rewind(self, step: int) -> None:
        """Go back to the place of a bad step; the guard has kept all tensors as they were there."""
        self.gradient_step.guard.reset()
        self.history.forget(self.step - step)
        self.step, (self.epoch, self.position) = step, divmod(step, self.batches.per_epoch)
        start, schedule, groups = self._schedule_before
        if schedule is not None and self.scheduler is not None:
            self.scheduler.load_state_dict(schedule)
            for group, options in zip(self.optimizer.param_groups, groups, strict=True):
                group.update(options)
            for _ in range(step - start):
                self.scheduler.step()

    def _remember_schedule(self) -> None:
        if self.scheduler is not None and self._schedule_each_step:
            groups = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
            self._schedule_before = (self.step, copy.deepcopy(self.scheduler.state_dict()), groups)

    def _close_epoch_if_over(self) -> None:
        if self.position < self.batches.per_epoch:
            return
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"]}
        if self.validation is not None:
            row |= {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
        self.history.close_epoch(row)
        self.epoch, self.position = self.epoch + 1, 0
        if not self._epochs_are_watched:  # the row is read later, when the guard has been asked
            return
        rows = self.history.read()
        if self.scheduler is not None and not self._schedule_each_step:
            self._step_scheduler(rows[-1])
        self._tell(lambda callback: callback.on_epoch(self, rows[-1]))

    def _step_scheduler(self, row: dict[str, Any]) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            metric = row.get("val_objective", row["objective"])
            self.scheduler.step(metric if self.scheduler.mode == "max" else -metric)
        else:
            self.scheduler.step()  # type: ignore[union-attr]

    def evaluate(self, batches: Batches) -> dict[str, float]:
        """The report over all of these batches, modules in eval mode, on noise of its own: nats per datum."""
        total, count = torch.zeros(len(COLUMNS), dtype=torch.float64), 0
        with self.pair.evaluating(fold(self.seed, "validation")):
            for batch in batches.epoch(fold(self.seed, "validation"), 0):
                size = batch.size or 1
                total += self.objective.measure(self.pair, batch).to("cpu", torch.float64) * size
                count += size
        return dict(zip(COLUMNS, (total / count).tolist(), strict=True))

    def stop(self, reason: str) -> None:
        """Ask for an end after the present step."""
        self._stop_reason = reason

    def _finish(self) -> None:
        self.history.read()
        try:
            for callback in self.callbacks:
                callback.on_end(self)
        finally:
            self._save_at_the_end()

    def _save_at_the_end(self) -> None:
        if self.checkpoint is not None and self.step and self._whole:
            self.save()

    # -- state ---------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter, trained or not, and buffer by name, live."""
        leaves = {name: leaf for members in self.gradient_step.leaves.values() for name, leaf in members.items()}
        buffers = {f"buffer.{name}": buffer for name, buffer in buffers_by_name(self.pair, self.objective).items()}
        return {**leaves, **buffers, **self.pair.frozen_by_name()}

    def _remembering(self) -> list[Callback]:
        return [callback for callback in self.callbacks if type(callback).state is not Callback.state]

    def _names(self) -> dict[int, str]:
        return {id(tensor): name for name, tensor in self.tensors().items()}

    def state(self) -> dict[str, Any]:
        """The run as one plain tree: all that :meth:`load_state` needs to go on as if nothing had happened."""
        if self._frozen is not None:
            return self._frozen
        self.history.read()
        return {
            "format": STATE_FORMAT,
            "fingerprint": self.fingerprint,
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "seconds": self.seconds,
            "tensors": {name: tensor.detach() for name, tensor in self.tensors().items()},
            "optimizer": optimizer_state(self.optimizer, self._names()),
            "scheduler": None if self.scheduler is None else _plain(self.scheduler.state_dict()),
            "callbacks": [callback.state() for callback in self._remembering()],
            "history": self.history.state(),
            "compiled": self.compilation.state(),
            "template": self.pair.template_state(),
        }

    def freeze_state(self) -> None:
        """Remember the state as it is now, before somebody changes the parameters by hand."""
        self._frozen = _copied(self.state())

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to the place that ``state`` describes.

        Raises:
            ResumeError: when the state is of another run (data, seed, objective, optimizer or parameters differ).
        """
        self._require_same(state)
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(state["tensors"][name])
        load_optimizer_state(self.optimizer, state["optimizer"], self.tensors())
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for callback, saved in zip(self._remembering(), state["callbacks"], strict=True):
            callback.load_state(saved)
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.seconds = state["seconds"]
        self.compilation.load_state(state.get("compiled", {}))
        self.history.load_state(state["history"])

    def _require_same(self, state: dict[str, Any]) -> None:
        saved = {**state["fingerprint"], **_shapes(state["tensors"])}
        present = {**self.fingerprint, **_shapes(self.tensors())}
        different = {k: (saved.get(k), present.get(k)) for k in {**saved, **present} if saved.get(k) != present.get(k)}
        if different:
            what = "; ".join(f"{key}: saved {was!r}, now {now!r}" for key, (was, now) in sorted(different.items()))
            raise ResumeError(f"resume: the checkpoint is of another run ({what})")

    def save(self) -> None:
        """Write the state to the checkpoint file, atomically."""
        if self.checkpoint is not None:
            save_tree(self.checkpoint, self.state())

    def _save_if_due(self) -> None:
        if self.checkpoint is None:
            return
        if (self.every is None and self.position == 0) or (self.every is not None and self.step % self.every == 0):
            self.save()


def _shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {f"the shape of {name}": list(tensor.shape) for name, tensor in tensors.items()}


def _described(optimizer: torch.optim.Optimizer) -> str:
    options = ", ".join(f"{k}={v!r}" for k, v in optimizer.defaults.items() if k != "lr")
    return f"{type(optimizer).__name__}({options})"


def _plain(value: Any) -> Any:
    """A scheduler's state without what is no data (bound functions)."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if isinstance(k, str | int) and not callable(v)}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _copied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list | tuple) else tree
