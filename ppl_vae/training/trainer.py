"""The loop: epochs of steps, checks, callbacks, checkpoints; it knows nothing of EM, nor of gradients."""

from __future__ import annotations

import math
import operator
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.batches import Batches
from ppl_vae.objectives import COLUMNS
from ppl_vae.pair import Pair
from ppl_vae.pair.scope import validation as validation_of
from ppl_vae.training.callbacks import Callback
from ppl_vae.training.checkpoint import STATE_FORMAT, Checkpoint, require_same
from ppl_vae.training.cursor import Cursor
from ppl_vae.training.ending import finish, with_the_fit
from ppl_vae.training.history import History
from ppl_vae.training.interrupts import Interrupt, deferred_interrupt
from ppl_vae.training.nonfinite import NonFiniteError
from ppl_vae.training.progress import Progress
from ppl_vae.training.step import Step
from ppl_vae.training.threads import one_thread
from ppl_vae.training.undo import Touched, WayBack, copied


class Trainer:
    """A run: its step, its place in the data, its history, and all that a checkpoint must hold.

    The order of the data is a function of (seed, epoch), the noise of a step of (seed, step): so the state is what the
    step says of itself, and the place; and a resumed run equals an uninterrupted one to the bit.

    Args:
        pair, step, batches: what is fitted, what is repeated (see :class:`~ppl_vae.training.Step`), and on what.
        validation: batches whose report is added to each row of the history as ``val_*``.
        checkpoint, fingerprint: where and when the state is written; what else a resumed run must find again in it.
        on_one_thread: are steps so small that a second thread costs more than it saves?
        fit: what callbacks and errors find as ``fit``; default: the pair.
    """

    def __init__(
        self,
        pair: Pair,
        step: Step,
        batches: Batches,
        *,
        seed: int = 0,
        validation: Batches | None = None,
        callbacks: Iterable[Callback] = (),
        checkpoint: Checkpoint | None = None,
        fingerprint: dict[str, Any] | None = None,
        on_one_thread: bool = False,
        fit: Any = None,
    ) -> None:
        self.pair, self.make, self.batches, self.seed = pair, step, batches, seed
        self.fit = pair if fit is None else fit
        self.validation, self.callbacks = validation, list(callbacks)
        self.checkpoint = checkpoint or Checkpoint(None)
        self._remembering = [callback for callback in self.callbacks if type(callback).state is not Callback.state]
        self._given_fingerprint = {**(fingerprint or {}), **step.fingerprint()}
        self.cursor, self.history = Cursor(batches, seed), History()
        self.seconds, self.ended, self.target = 0.0, "not started", 0
        self._on_one_thread = on_one_thread
        self._watches_steps = any(type(c).on_step is not Callback.on_step for c in self.callbacks)
        self._watches_epochs = _watches_epochs(self)
        self._stop_reason: str | None = None
        self._frozen: dict[str, Any] | None = None
        self._way_back = WayBack(step, self.cursor, self.history, self._make_again)
        self._is_touched = False  # has a callback changed something by hand?
        self._whole = True  # False inside a step: there the state is none to go on from

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again; all rows are read for it, once, when it is first asked for."""
        with self.pair.scope():  # its lock: rows may be read on torch's global generator
            own = {"seed": self.seed, **self.batches.fingerprint(self.seed)}
            if self.validation is not None:
                own["validation"] = self.validation.fingerprint(self.seed)["rows"]
        return {**own, "callbacks": [type(c).__name__ for c in self._remembering], **self._given_fingerprint}

    @property
    def step(self) -> int:
        """Steps made in all."""
        return self.cursor.step

    @property
    def epoch(self) -> int:
        """Epochs completed in all."""
        return self.cursor.epoch

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, *, epochs: int | None = None, steps: int | None = None, progress: bool = True) -> None:
        """Go on until ``epochs`` or ``steps`` have been made in all (counted from the very first).

        Raises:
            NonFiniteError: a loss, gradient, parameter or buffer was not finite; everything is as before that step.
            WriteError, FolderInUse: the state could not be written; another run writes its state to the same place.
        """
        self.target = self.steps_in(epochs, steps)
        with with_the_fit(self.fit), self.checkpoint.alone():
            if self._frozen is not None:  # a callback has changed the parameters after the last step
                self.load_state(self._frozen)
            self._stop_reason = None
            self._way_back.forget()
            self.make.before_run(self.target)
            started = time.perf_counter()
            bar = Progress(self.target, self.step, enabled=progress)
            listen = getattr(self.make, "listen", lambda say, asked: None)
            self.ended, ending = "failed", None
            try:
                with deferred_interrupt(terminate=True) as interrupt, self.pair.mode(training=True):
                    listen(bar.say, lambda: interrupt.requested)
                    self.ended = self._run(bar, interrupt)
            except KeyboardInterrupt:
                self.ended = "interrupted"
            except BaseException as error:
                ending, self.ended = error, "non-finite" if isinstance(error, NonFiniteError) else "failed"
                raise
            finally:
                self.seconds += time.perf_counter() - started
                self.history.read()
                self._way_back.forget()
                listen(lambda text: None, lambda: False)
                finish(self, ending)
                bar.close()

    def steps_in(self, epochs: int | None, steps: int | None) -> int:
        """The number of steps that ``epochs`` or ``steps`` asks for."""
        return steps_of(epochs, steps, self.batches.per_epoch)

    def _run(self, bar: Progress, interrupt: Interrupt) -> str:
        if self.step < self.target:
            self._tell(lambda callback: callback.on_start(self))
        while self.step < self.target:
            with mended(self, self._way_back):
                self._advance(interrupt)
            self._close_epoch_if_over()
            self.history.read()
            bar.show(self.step, self.history.last)
            if self.checkpoint.is_due(self.step, self.cursor.position):
                self.save()
            if interrupt.requested:
                return "interrupted"
            if self._stop_reason is not None:
                return self._stop_reason
        return "completed"

    def _advance(self, interrupt: Interrupt) -> None:
        """Steps up to the next check, or to an end of an epoch that somebody waits for; nothing asks the device."""
        # The first epoch sees every row once, with argument checks on.
        with at_work(self.pair, checked=self.epoch == 0, on_one_thread=self._on_one_thread):
            until = min(self.target, self._way_back.renew(), self.checkpoint.next_due(self.step))
            self._is_touched, waits = False, self._watches_epochs or self.epoch == 0
            try:
                while self.step < until and not (interrupt.requested or self._stop_reason):
                    self._make_step()
                    if self.make.has_stopped or self._is_touched or (self.cursor.epoch_is_over and waits):
                        break
                    self._close_epoch_if_over()
            except BaseException:
                self._recover()
                if not self.make.failed():
                    raise
            if self.make.failed():
                bad = self._way_back.go_to_failure()
                raise self.make.explain(self.cursor.again(), bad)
        if self._is_touched:
            self._way_back.forget()

    def _recover(self) -> None:
        """A step has broken off: back to the state before it."""
        self.cursor.go_to(self.cursor.place)  # a batch may have been read whose step was not made
        if self._whole:
            return
        try:
            self._way_back.go_to(self.step)
        finally:
            self._whole = True

    def _step_once(self) -> Tensor:
        batch = self.cursor.next()
        self._whole = False
        report = self.make(batch, self.step)
        self.history.add(report, batch.size or 1)
        self.cursor.advance()
        self._whole = True
        return report

    def _make_again(self) -> None:
        self._step_once()
        if not self._watches_epochs:  # of those that are watched none ends between a copy and where one goes from it
            self._close_epoch_if_over()

    def _make_step(self) -> None:
        report = self._step_once()
        if not self._watches_steps:
            return
        touched = Touched(self.make)
        self._tell(lambda callback: callback.on_step(self, report))
        self._is_touched = touched.by_somebody()

    def _tell(self, event: Callable[[Callback], None]) -> None:
        if not told(self.callbacks, event):
            self.stop("interrupted")

    def _close_epoch_if_over(self) -> None:
        if not self.cursor.epoch_is_over:
            return
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.step, **self.make.row()}
        if self.validation is not None:
            row |= validated(self.evaluate(self.validation), self.epoch, self.history.last)
        self.history.close_epoch(row)
        self.cursor.begin_epoch()
        if not self._watches_epochs:  # the row is read later, when the step has been asked whether all is well
            return
        last = self.history.read()[-1]
        self.make.after_epoch(last)
        self._tell(lambda callback: callback.on_epoch(self, last))
        self._way_back.forget()

    def evaluate(self, batches: Batches) -> dict[str, float]:
        """The report over all of these batches, modules in eval mode, on noise of its own: nats per datum."""
        return mean_report(self.pair, self.make, batches, fold(self.seed, "validation"))

    def stop(self, reason: str) -> None:
        """Ask for an end after the present step."""
        self._stop_reason = reason

    # -- state ---------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter, trained or not, and buffer by name, live."""
        return {**self.make.tensors(), **self.pair.frozen_by_name()}

    def state(self) -> dict[str, Any]:
        """The run as one plain tree: all that :meth:`load_state` needs to go on as if nothing had happened."""
        if self._frozen is not None:
            return self._frozen
        return {
            **self.make.state(),
            "format": STATE_FORMAT,
            "fingerprint": self.fingerprint,
            **dict(zip(("step", "epoch", "position"), self.cursor.place, strict=True)),
            "seconds": self.seconds,
            "tensors": {name: tensor.detach() for name, tensor in self.tensors().items()},
            "callbacks": [callback.state() for callback in self._remembering],
            "history": self.history.state(),
            "template": self.pair.template_state(),
        }

    def freeze_state(self) -> None:
        """Remember the state as it is now, before somebody changes the parameters by hand."""
        self._frozen = copied(self.state())

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to the place that ``state`` describes.

        Raises:
            ResumeError: when the state is of another run (data, seed, objective, optimizer or parameters differ).
        """
        require_same(state, self.fingerprint, self.tensors())
        put(state["tensors"], self.tensors())
        self.make.load_state(state)
        for callback, saved in zip(self._remembering, state["callbacks"], strict=True):
            callback.load_state(saved)
        self.cursor.go_to((state["step"], state["epoch"], state["position"]))
        self.seconds = state["seconds"]
        self.history.load_state(state["history"])
        self._frozen = None
        self._way_back.forget()

    def save(self) -> None:
        """Write the state to the checkpoint file, atomically."""
        if self.checkpoint.path is not None:
            self.checkpoint.write(self.state())


@torch.no_grad()
def put(saved: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    """Copy saved values into live tensors, by name."""
    for name, tensor in live.items():
        tensor.copy_(saved[name])


def told(callbacks: Iterable[Callback], event: Callable[[Callback], None]) -> bool:
    """Tell every callback; False if one of them asks for the end by a KeyboardInterrupt."""
    go_on = True
    for callback in callbacks:
        try:
            event(callback)
        except KeyboardInterrupt:
            go_on = False
    return go_on


def _watches_epochs(run: Trainer) -> bool:
    """Does somebody wait for the ends of epochs?"""
    asked = any(callback.watches_epochs for callback in run.callbacks) or bool(run.validation)
    return asked or run.make.waits_for_epochs or run.checkpoint.watches_epochs


@contextmanager
def mended(run: Trainer, way_back: WayBack) -> Iterator[None]:
    """After a step that was not finite, go on where a callback has changed something; else the error passes."""
    try:
        yield
    except NonFiniteError as error:
        if not any(callback.on_nonfinite(run, error) for callback in run.callbacks):
            raise
        way_back.forget()


@contextmanager
def at_work(pair: Pair, *, checked: bool, on_one_thread: bool) -> Iterator[None]:
    """Where steps are made: Python's locks are held, and all that a step sets is given back after them."""
    with (
        pair.scope(),
        isolated_rng(None, pair.device),
        validation_of(checked),
        one_thread(on_one_thread),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def mean_report(pair: Pair, step: Step, batches: Batches, noise: int) -> dict[str, float]:
    """The report of a step over batches in the order and on the noise of a seed, averaged over their rows."""
    total, count = torch.zeros(len(COLUMNS), dtype=torch.float64), 0
    with pair.evaluating(noise):
        for batch in batches.epoch(noise, 0):
            size = batch.size or 1
            total += step.measure(batch).to("cpu", torch.float64) * size
            count += size
    return dict(zip(COLUMNS, (total / count).tolist(), strict=True))


def validated(report: Mapping[str, float], epoch: int, before: Mapping[str, Any] | None) -> dict[str, float]:
    """The columns ``val_*`` of a row; a warning where they hold no number, and those of the row before it did."""
    value = report["objective"]
    if not math.isfinite(value) and math.isfinite((before or {}).get("val_objective", 0.0)):
        warnings.warn(
            f"fit: val_objective of epoch {epoch} is {value}, and no epoch can be chosen by it; a validation row "
            "without a density does this, or running means that are far off in evaluation mode",
            stacklevel=2,
        )
    return {f"val_{name}": value for name, value in report.items()}


def steps_of(epochs: int | None, steps: int | None, per_epoch: int) -> int:
    """The number of steps that ``epochs`` or ``steps`` asks for.

    Raises:
        ValueError: both are given or neither, or one is no whole number.
    """
    if (epochs is None) == (steps is None):
        raise ValueError(f"fit: give either epochs= or steps=, got epochs={epochs}, steps={steps}")
    count: Any = epochs if epochs is not None else steps
    if isinstance(count, bool) or not hasattr(count, "__index__") or operator.index(count) < 0:
        raise ValueError(f"fit: {'epochs' if steps is None else 'steps'} must be a whole number >= 0, got {count!r}")
    return operator.index(count) * (per_epoch if steps is None else 1)
