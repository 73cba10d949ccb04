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

__all__ = ["CodeHistory"]

DRAWS = 8
"""Draws a datum, where classes depend on latents drawn before them: 64 took longer than the steps of an epoch."""


class CodeHistory(Callback):
    """After each epoch, how the classes of the discrete latents are used on some rows.

    The columns are ``code_entropy``, ``code_information`` (both nats), ``code_perplexity`` (means over the latents of a
    site) and ``dead_codes``; with several discrete sites each has its own, ``c.code_entropy``. A fit of a pair with
    discrete latents has this by itself.

    With a relaxed guide (``RelaxedCategorical``) ``elbo``, ``reconstruction`` and ``kl`` are measured on these rows in
    evaluation mode, where codes are hard: what training saw of them is no bound of the discrete model.

    Args:
        rows: the data to look at.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Add the columns to the row of the history."""
        if any(getattr(part, "is_relaxed", False) for module in run.pair.modules() for part in module.modules()):
            row.update(self._measured(run.pair))
        sites = discrete_sites(run.pair)
        for name in sites:
            found = code_usage(run.pair, self.rows, name, num_samples=DRAWS).summary()
            row.update(found if len(sites) == 1 else {f"{name}.{key}": value for key, value in found.items()})

    def _measured(self, pair: Pair) -> dict[str, float]:
        with pair.evaluating(fold(0, "code_history")):
            report = ELBO().measure(pair, self.rows.batch())
        return dict(zip(COLUMNS[1:], report[1:].tolist(), strict=True))
