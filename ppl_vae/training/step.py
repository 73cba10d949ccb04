"""What a run repeats: the contract of a step."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ppl_vae.data.rows import Batch

__all__ = ["Step"]


class Step(Protocol):
    """What a :class:`~ppl_vae.training.Trainer` repeats: gradient steps, exact EM, or another.

    Implementing a new one:

    - a call changes nothing but the tensors of :meth:`tensors` and what :meth:`state` tells, and is a function of them,
      of the batch and of the step's number: its noise is seeded by the number. Then a run can be saved, resumed and
      taken back to the bit;
    - a report is (4,), nats per datum: objective, elbo, reconstruction, kl (NaN for what there is none of);
    - a step that meets a number that is not finite changes nothing if it can tell, and :meth:`failed` says so; or it
      goes on, and :meth:`failed` says so when it is asked, at least once in 50 steps;
    - a step that may have to wait for something can have a method ``listen(say, asked)``: the run gives it a function
      that shows a text beside the progress bar, and one that tells whether an end has been asked for. Then the step
      waits no longer, and raises ``KeyboardInterrupt``.
    """

    @property
    def waits_for_epochs(self) -> bool:
        """Must it be told of the end of each epoch at once?"""
        ...

    def before_run(self, target: int) -> None:
        """Told that a run begins, and of the step at which it is to end."""
        ...

    def __call__(self, batch: Batch, step: int) -> Tensor:
        """Make step ``step`` (counted from 0) and report on it."""
        ...

    @property
    def has_stopped(self) -> bool:
        """Is it known, without waiting for a device, that a step has met a number that is not finite?"""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that steps change, by name, live."""
        ...

    def state(self) -> dict[str, Any]:
        """What else there is to remember, as a plain tree."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        ...

    def failed(self) -> bool:
        """Has a number that is not finite been met since the last :meth:`load_state`? The one place that may wait."""
        ...

    def explain(self, batch: Batch, step: int) -> Exception:
        """What to raise for the step that failed; all is as before it."""
        ...

    def measure(self, batch: Batch) -> Tensor:
        """The report of a step that is not made."""
        ...

    def row(self) -> dict[str, float]:
        """What a row of the history says of it, beside the reports."""
        ...

    def after_epoch(self, row: dict[str, Any]) -> None:
        """Told of the end of an epoch with its row of the history."""
        ...
