"""Learning rates that follow a schedule of torch's, advanced after each epoch, or after each step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["EachStep", "Rates"]


def require_rate(name: str, value: Any, *, most: float = sys.float_info.max) -> None:
    """Say of an option that it is no positive number up to ``most``.

    Raises:
        TypeError: it is no number.
        ValueError: it is not positive, or too large.
    """
    one = isinstance(value, Tensor) and value.numel() == 1
    if isinstance(value, bool) or not (one or isinstance(value, Real)):
        raise TypeError(f"VariationalEM: {name} must be a positive number, got {value!r}")
    if not 0 < value <= most:
        raise ValueError(f"VariationalEM: {name} must be positive, got {value}")


@dataclass(frozen=True)
class EachStep:
    """A learning-rate schedule that advances after every step instead of after every epoch.

    ``VariationalEM(..., lr_scheduler=EachStep(partial(CosineAnnealingLR, T_max=2000)))``
    """

    factory: Callable[[torch.optim.Optimizer], Any]

    def __call__(self, optimizer: torch.optim.Optimizer) -> Any:
        """The scheduler of this optimizer."""
        return self.factory(optimizer)


class Rates:
    """The rates of an optimizer, and the schedule that they follow, if there is one."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, factory: Callable[[torch.optim.Optimizer], Any] | None
    ) -> None:
        self.optimizer = optimizer
        self.initial = {group.get("name", "all"): group["lr"] for group in optimizer.param_groups}
        self.scheduler = factory(optimizer) if factory is not None else None
        self.each_step = isinstance(factory, EachStep)
        if self.each_step and isinstance(self.scheduler, ReduceLROnPlateau):
            raise ValueError("EachStep: ReduceLROnPlateau looks at whole epochs; give it without EachStep")

    @property
    def by_epoch(self) -> bool:
        """Is there a schedule that advances after each epoch?"""
        return self.scheduler is not None and not self.each_step

    def after_step(self) -> None:
        """Advance a schedule by step."""
        if self.scheduler is not None and self.each_step:
            self.scheduler.step()

    def after_epoch(self, row: dict[str, Any]) -> None:
        """Advance a schedule by epoch; ``row`` is the epoch's in the history."""
        if not self.by_epoch:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            metric = row.get("val_objective", row["objective"])
            self.scheduler.step(metric if self.scheduler.mode == "max" else -metric)
        else:
            self.scheduler.step()  # type: ignore[union-attr]

    def state(self) -> Any:
        """The schedule's state as a plain tree; the rates themselves are the optimizer's."""
        return None if self.scheduler is None else _plain(self.scheduler.state_dict())

    def load_state(self, state: Any) -> None:
        """Take back what :meth:`state` gave."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)


def _plain(value: Any) -> Any:
    """A scheduler's state without what is no data (bound functions)."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if isinstance(k, str | int) and not callable(v)}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
