"""What is known of a run once it is over, or saved: how it ended, how long it was, and its history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ppl_vae.training.history import table_of
from ppl_vae.training.history_table import Table
from ppl_vae.training.rising import Rise, still_rising

if TYPE_CHECKING:
    from ppl_vae.training.trainer import Trainer

__all__ = ["Record"]


@dataclass(frozen=True)
class Record:
    """The account of a run.

    Attributes:
        ended: "completed", "converged", "not converged after N steps", "interrupted", "early stopping", "non-finite",
            "failed", or "by hand".
        steps, epochs: made in all.
        seconds: wall time.
        table: the history, a row an epoch.
    """

    ended: str = "by hand"
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    table: Table = field(default_factory=Table)

    def rise(self, *, num_data: int | None = None) -> Rise | None:
        """How far the ELBO was still rising at the end of a run that nothing but its length ended."""
        return still_rising(self.table.columns(), num_data=num_data) if self.ended == "completed" else None

    @classmethod
    def of(cls, run: Trainer) -> Record:
        """Of a run as it stands."""
        return cls(run.ended, run.step, run.epoch, run.seconds, run.history.table())

    @classmethod
    def saved(cls, run: dict[str, Any], state: dict[str, Any] | None) -> Record:
        """Of what a run folder says: its config, and the state, which may be that of a later checkpoint."""
        table = table_of((state or {}).get("history", {})).up_to(run["epochs"])
        return cls(str(run["ended"]), int(run["steps"]), int(run["epochs"]), float(run["seconds"]), table)
