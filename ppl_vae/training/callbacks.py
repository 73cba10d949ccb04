"""What may watch a run, and end it."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ppl_vae.pair import Pair
from ppl_vae.training.history import History
from ppl_vae.training.nonfinite import NonFiniteError


class Run(Protocol):
    """What a callback sees of the run that it watches."""

    pair: Pair
    fit: Any
    history: History

    @property
    def step(self) -> int:
        """Steps made in all."""
        ...

    @property
    def epoch(self) -> int:
        """Epochs completed in all."""
        ...

    def stop(self, reason: str) -> None:
        """End the run after the present step; ``fit.ended`` will be the reason."""

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, live."""

    def freeze_state(self) -> None:
        """Remember the state as it is now, before the callback changes parameters by hand."""


class Callback:
    """Watches a run. Override what you need; ``run.stop(reason)`` ends the run after the present step.

    A callback that remembers something gives it in ``state()``, so that a resumed run goes on as if it had not stopped.
    """

    watches_epochs = True
    """Is it to be told of each epoch before the next step? Where epochs are single steps that costs speed."""

    def on_start(self, run: Run) -> None:
        """Called before the first step."""

    def on_step(self, run: Run, report: Tensor) -> None:
        """Called after every step with its report (4,) on the device; overriding it costs speed."""

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Called after every epoch with its row of the history."""

    def on_nonfinite(self, run: Run, error: NonFiniteError) -> bool:
        """Called when a step was not finite, all as before it; True if something was changed, and the run goes on."""
        return False

    def on_end(self, run: Run) -> None:
        """Called when the run has ended, however it ended."""

    def state(self) -> dict[str, Any]:
        """What to remember in a checkpoint: numbers, strings, tensors, lists and dictionaries of these."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""


class _Watch(Callback):
    def __init__(self, metric: str, min_delta: float = 0.0) -> None:
        self.metric, self.min_delta = metric, float(min_delta)
        self.best, self.best_epoch = -math.inf, -1

    def on_start(self, run: Run) -> None:
        """Begin anew with a new run: what was best in another one is no measure for this."""
        if run.step == 0:
            self.best, self.best_epoch = -math.inf, -1

    def _better(self, row: dict[str, Any]) -> bool:
        if self.metric not in row:
            need = " (give fit a validation=)" if self.metric.startswith("val_") else ""
            raise ValueError(
                f"{type(self).__name__}: the history has no column {self.metric!r}{need}; it has {sorted(row)}"
            )
        if not row[self.metric] > self.best + self.min_delta:
            return False
        self.best, self.best_epoch = float(row[self.metric]), int(row["epoch"])
        return True

    def state(self) -> dict[str, Any]:
        """The best value and its epoch."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])


class EarlyStopping(_Watch):
    """End the run when ``metric`` (higher is better) has not risen by ``min_delta`` nats for ``patience`` epochs."""

    def __init__(self, patience: int = 10, *, metric: str = "val_objective", min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, got {patience}")
        super().__init__(metric, min_delta)
        self.patience = patience

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """End the run when patience is over."""
        if not self._better(row) and row["epoch"] - self.best_epoch >= self.patience:
            run.stop("early stopping")


class KeepBest(_Watch):
    """Give the pair back with the parameters of the epoch that had the best ``metric`` (higher is better).

    A later ``resume`` goes on from the last epoch, not from the best one.
    """

    def __init__(self, *, metric: str = "val_objective") -> None:
        super().__init__(metric)
        self._kept: dict[str, Tensor] = {}

    def on_start(self, run: Run) -> None:
        """Begin anew with a new run."""
        super().on_start(run)
        if run.step == 0:
            self._kept = {}

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Keep a copy of the parameters if they are the best so far."""
        if self._better(row):
            self._kept = {name: t.detach().clone() for name, t in run.tensors().items()}

    def on_end(self, run: Run) -> None:
        """Give the pair the best parameters."""
        if self._kept:
            run.freeze_state()  # a resumed run starts from the last epoch
            with torch.no_grad():
                for name, tensor in run.tensors().items():
                    tensor.copy_(self._kept[name])

    def state(self) -> dict[str, Any]:
        """The best value, its epoch and its parameters."""
        return {**super().state(), "kept": dict(self._kept)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        super().load_state(state)
        self._kept = dict(state["kept"])
