"""Was the ELBO still rising when a run of a given length ended? A test of its history, not a look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.training.stationarity import BATCHES, trend_of

__all__ = ["Rise", "still_rising"]

LEAST_ROWS = 6 * BATCHES
"""The last third of a history of fewer rows is too short for the test, and nothing is said."""
LEAST_RISE = 1e-3
"""A rise by less than this, nats per datum, is not worth a word (nor by a tenth of a nat over all data)."""


@dataclass(frozen=True)
class Rise:
    """How far the ELBO rose over the last third of a run.

    Attributes:
        nats, standard_error: nats per datum.
        epochs: of the last third.
        validation: is it the ELBO of validation rows?
    """

    nats: float
    standard_error: float
    epochs: int
    validation: bool = False

    def __str__(self) -> str:
        whose = "validation ELBO" if self.validation else "ELBO"
        return (
            f"the {whose} was still rising at the end, by {self.nats:.2g} (± {self.standard_error:.1g}) nats per datum "
            f"over the last {self.epochs} epochs"
        )


def still_rising(columns: Mapping[str, Any], *, num_data: int | None = None) -> Rise | None:
    """The rise of the ELBO over the last third of a history; None where there is none, or nobody can tell.

    The test is :func:`~ppl_vae.training.stationarity.trend_of` on the last third, at the level of 1 %: it takes into
    account that epochs resemble the ones before them. The last sixth must have gone on at a quarter of the pace, so
    that a curve that has flattened meanwhile is not called rising.

    Args:
        columns: of the history; ``val_elbo`` is taken before ``elbo``, since it tells what more epochs are worth.
        num_data: N, where all data share latents, and a tenth of a nat over all of them counts.
    """
    name = "val_elbo" if "val_elbo" in columns else "elbo"
    series = np.asarray(columns.get(name, ()), dtype=np.float64)
    if len(series) < LEAST_ROWS:
        return None
    last = series[-(len(series) // 3) :]
    trend, later = trend_of(last), last[len(last) // 2 :]
    if trend is None or not trend.is_up:
        return None
    quarter = len(later) // 2
    goes_on = later[-quarter:].mean() - later[:quarter].mean()  # of a line it is a quarter of the rise
    enough = LEAST_RISE if num_data is None else min(LEAST_RISE, 0.1 / num_data)
    if goes_on < trend.rise / 16 or trend.rise < enough:
        return None
    return Rise(trend.rise, trend.standard_error, len(last), name == "val_elbo")
