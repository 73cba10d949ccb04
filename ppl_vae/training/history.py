"""The history of a run: reports collected on the device, read in bulk, one row an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives import COLUMNS
from ppl_vae.training.history_table import Table

Mark = tuple[int, Tensor, int]
"""How many rows there were, and the sum and the number of data of the epoch that was open."""


class History:
    """Rows of plain numbers. Reports of steps wait on the device until somebody reads them, at least once in 50 steps.

    The columns ``objective``, ``elbo``, ``reconstruction`` and ``kl`` are nats per datum, averaged over the rows of the
    epoch as they were seen in training. What is kept of an epoch that is not over is a sum, however long it is.
    """

    def __init__(self) -> None:
        self._table = Table()
        self._last: dict[str, Any] | None = None  # callbacks may add to it, so it is packed when the next one comes
        self._sum, self._count = torch.zeros(len(COLUMNS), dtype=torch.float64), 0
        self._pending: list[tuple[Tensor, int] | dict[str, Any]] = []  # reports with their rows of data; ends of epochs

    def add(self, report: Tensor, size: int) -> None:
        """Remember a step's report; it stays on the device."""
        self._pending.append((report, size))

    def close_epoch(self, row: dict[str, Any]) -> None:
        """End an epoch: ``row`` holds what is known without asking the device."""
        self._pending.append(row)

    def mark(self) -> Mark:
        """Where the history stands now, for :meth:`back_to`."""
        self.read()
        return len(self.table()), self._sum, self._count

    def back_to(self, mark: Mark) -> None:
        """Forget all that has come after a mark."""
        size, self._sum, self._count = mark
        self._pending, self._last = [], None
        self._table.cut(size)

    def read(self) -> list[dict[str, Any]]:
        """Read what waits from the device, in one transfer; returns the rows of the epochs that have ended."""
        reports = [item[0] for item in self._pending if isinstance(item, tuple)]
        values = iter(torch.stack(reports).to("cpu", torch.float64).unbind() if reports else ())
        fresh = []
        for item in self._pending:
            if isinstance(item, tuple):
                self._sum, self._count = self._sum + next(values) * item[1], self._count + item[1]
            else:
                fresh.append({**item, **self._mean()})
        self._pending = []
        for row in fresh:
            self._append(row)
        return fresh

    def _mean(self) -> dict[str, float]:
        mean = self._sum / self._count
        self._sum, self._count = torch.zeros_like(self._sum), 0
        return dict(zip(COLUMNS, mean.tolist(), strict=True))

    def _append(self, row: dict[str, Any] | None) -> None:
        if self._last is not None:
            self._table.append(self._last)
        self._last = row

    @property
    def last(self) -> dict[str, Any] | None:
        """The row of the latest epoch that has been read."""
        return self._last if self._last is not None else self._table[-1] if len(self._table) else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every row that has been read."""
        return [*self._table, *([] if self._last is None else [self._last])]

    def columns(self) -> list[str]:
        """The names of all columns, in order of first appearance."""
        return list(dict.fromkeys((*self._table.names, *(self._last or {}))))

    def table(self) -> Table:
        """Every row that has been read, packed."""
        self._append(None)
        return self._table

    def state(self) -> dict[str, Any]:
        """A plain tree: all rows, and the sum over an epoch that is not over."""
        return {"table": self.table().state(), "sum": self._sum, "count": self._count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave, or what the builds before it did (rows, and a list of reports)."""
        self._last, self._pending = None, []
        self._table = table_of(state)
        self._sum, self._count = torch.zeros(len(COLUMNS), dtype=torch.float64), 0
        if "table" in state:
            self._sum, self._count = state["sum"].clone(), int(state["count"])
        elif state["pending"] is not None:
            for report, size in zip(state["pending"].unbind(0), state["sizes"], strict=True):
                self.add(report, size)
            self.read()


def table_of(state: dict[str, Any]) -> Table:
    """The rows that a saved history holds, in this layout or the one before it."""
    if "table" in state:
        return Table.of(state["table"])
    table = Table()
    for row in state.get("rows", []):
        table.append(row)
    return table
