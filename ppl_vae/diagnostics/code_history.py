"""The codes in the history of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppl_vae._random import fold
from ppl_vae.diagnostics.usage import code_usage, discrete_sites
from ppl_vae.objectives import COLUMNS, ELBO
from ppl_vae.training.callbacks import Callback, Run

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Pair

__all__ = ["CodeHistory", "is_time"]

DRAWS = 8
"""Draws a datum, where classes depend on latents drawn before them: 64 took longer than the steps of an epoch."""
STEPS, OFTEN = 50, 20
"""A look each 50 steps, and each 100, 200, ... when 20 times as many have been made twice over: where an epoch is a
single step, one after each took longer than the steps."""


class CodeHistory(Callback):
    """After each epoch, how the classes of the discrete latents are used on some rows.

    The columns are ``code_entropy``, ``code_information`` (both nats), ``code_perplexity`` (means over the latents of a
    site) and ``dead_codes``; with several discrete sites each has its own, ``c.code_entropy``. A fit of a pair with
    discrete latents has this by itself.

    Where epochs are shorter than 50 steps, one looks, once 50 have been made, when their number passes a multiple of
    50 (later of 100, 200, ...: one in twenty); the rows between hold what was found last.

    With a relaxed guide (``RelaxedCategorical``) ``elbo``, ``reconstruction`` and ``kl`` are measured on these rows in
    evaluation mode, where codes are hard: what training saw of them is no bound of the discrete model.

    Args:
        rows: the data to look at.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._found: dict[str, float] = {}

    def on_start(self, run: Run) -> None:
        """Begin anew, in a run that does not go on from an earlier one."""
        if run.step == 0:
            self._found = {}

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Add the columns to the row of the history."""
        if any(getattr(part, "is_relaxed", False) for module in run.pair.modules() for part in module.modules()):
            row.update(self._measured(run.pair))
        if not self._found or is_time(run.step, run.step // run.epoch):
            self._found = self._look(run.pair)
        row.update(self._found)

    def state(self) -> dict[str, Any]:
        """What was found last."""
        return {"found": dict(self._found)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave; runs of earlier versions gave nothing."""
        self._found = dict(state.get("found", {}))

    def _look(self, pair: Pair) -> dict[str, float]:
        sites, columns = discrete_sites(pair), dict[str, float]()
        for name in sites:
            found = code_usage(pair, self.rows, name, num_samples=DRAWS).summary()
            columns |= found if len(sites) == 1 else {f"{name}.{key}": value for key, value in found.items()}
        return columns

    def _measured(self, pair: Pair) -> dict[str, float]:
        with pair.evaluating(fold(0, "code_history")):
            report = ELBO().measure(pair, self.rows.batch())
        return dict(zip(COLUMNS[1:], report[1:].tolist(), strict=True))


def is_time(step: int, per_epoch: int) -> bool:
    """Is an epoch that ends at a step one after which one looks?"""
    each = STEPS
    while step >= 2 * each * OFTEN:
        each *= 2
    return step < STEPS or step // each > (step - per_epoch) // each
