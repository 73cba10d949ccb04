"""A warning while a fit runs: its codes have stopped to tell anything of the data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ppl_vae.data.source import source_of
from ppl_vae.diagnostics.code_history import STEPS, is_time
from ppl_vae.diagnostics.surgery import COLLAPSED, surgery
from ppl_vae.training.callbacks import Callback, Run

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

__all__ = ["CollapseWarning", "CollapseWatch"]

ROWS, DRAWS = 256, 4
"""Rows that are looked at and draws for each: a look takes some hundredths of a second, and sees up to log 256 nats."""


class CollapseWarning(UserWarning):
    """The codes of a fit tell next to nothing of the data."""


class CollapseWatch(Callback):
    """Warn, once, when the posterior has collapsed onto the prior, and say what helps.

    After an epoch it measures on some rows what a code tells of which of them it is of
    (:func:`~ppl_vae.diagnostics.surgery`); the column ``mutual_information`` of the history has it, in nats. A
    :class:`CollapseWarning` is given when it was below 0.1 nats in ``patience`` looks in a row, from step 50 on: fits
    begin there, and codes that come into use do so within some epochs. The fit goes on.

    Where epochs are shorter than 50 steps, one looks when the number of steps passes a multiple of 50 (later of 100,
    200, ...); the rows between hold what was found last. No training number changes by it.

    Args:
        data: rows to look at, such as those of the fit; at most 256 of them are.
        patience: looks in a row.

    Raises:
        ValueError: patience below 1; when the fit starts, for a pair that has no surgery (a latent that all data share,
            most autoguides).

    >>> from ppl_vae.data import load_digits
    >>> CollapseWatch(load_digits(binary=True).train).patience
    5
    """

    def __init__(self, data: Any, *, patience: int = 5) -> None:
        if patience < 1:
            raise ValueError(f"CollapseWatch: patience must be at least 1, got {patience}")
        self.rows = source_of(data).take(slice(0, ROWS))
        self.patience = patience
        self._forget()

    def _forget(self) -> None:
        self._told: float | None = None
        self._looks, self._warned = 0, False

    def on_start(self, run: Run) -> None:
        """Begin anew, in a run that does not go on from an earlier one; find out here whether there is a surgery."""
        if run.step == 0:
            self._forget()
            self._look(run.pair)

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Look, warn if it is time to, and add the column to the row of the history."""
        begun = run.step >= STEPS  # networks start with small outputs, so every fit begins with codes that tell little
        if self._told is None or (begun and is_time(run.step, run.step // run.epoch)):
            self._told = self._look(run.pair)
            self._looks = self._looks + 1 if begun and self._told < COLLAPSED else 0
            if self._looks >= self.patience and not self._warned:
                self._warned = True
                warnings.warn(self._words(run, self._told), CollapseWarning, stacklevel=2)
        row["mutual_information"] = self._told

    def state(self) -> dict[str, Any]:
        """What was found last, in how many looks it was next to nothing, and whether that was said."""
        return {"told": self._told, "looks": self._looks, "warned": self._warned}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self._told, self._looks, self._warned = state["told"], int(state["looks"]), bool(state["warned"])

    def _look(self, pair: Pair) -> float:
        return surgery(pair, self.rows, num_samples=DRAWS).mutual_information

    def _words(self, run: Run, told: float) -> str:
        config = getattr(run.fit, "config", {})
        objective = f" The objective is {config['objective']}." if "objective" in config else ""
        return (
            f"CollapseWatch: after epoch {run.epoch} a code tells {max(told, 0.0):.3f} nats of which of "
            f"{len(self.rows)} rows it is of, and less than {COLLAPSED} in {self.patience} looks in a row: the "
            f"posterior has collapsed onto the prior, and the model ignores its latents.{objective} What helps, in a "
            "new fit: a weight of the KL of at most 1; a KL that comes in later, ELBO(beta=LinearWarmup(steps)); a "
            "floor under it, ELBO(free_bits=0.25); an E-step that does not lag behind, "
            "schedule=Stages((Alternating(e_steps=5), steps), Joint()); a decoder that cannot do without"
        )
