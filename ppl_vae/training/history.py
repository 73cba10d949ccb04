"""The history of a run: reports collected on the device, read in bulk, one row an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives import COLUMNS


class History:
    """Rows of plain numbers. Reports of steps wait on the device until somebody needs a row.

    The columns ``objective``, ``elbo``, ``reconstruction`` and ``kl`` are nats per datum, averaged over the rows of the
    epoch as they were seen in training.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._pending: list[tuple[Tensor, int]] = []  # (report (4,), rows of data) of the steps of this epoch
        self._closed: list[tuple[dict[str, Any], list[tuple[Tensor, int]]]] = []  # epochs not read yet

    def add(self, report: Tensor, size: int) -> None:
        """Remember a step's report; it stays on the device."""
        self._pending.append((report, size))

    def forget(self, count: int) -> None:
        """Take back the last ``count`` reports, and open again the epochs that they had closed."""
        while count > len(self._pending) and self._closed:
            count -= len(self._pending)
            self._pending = self._closed.pop()[1]
        self._pending = self._pending[: len(self._pending) - count]

    def close_epoch(self, row: dict[str, Any]) -> None:
        """End an epoch: ``row`` holds what is known without asking the device."""
        self._closed.append((row, self._pending))
        self._pending = []

    @property
    def waiting(self) -> int:
        """How many epochs wait to be read."""
        return len(self._closed)

    def read(self) -> list[dict[str, Any]]:
        """Read every closed epoch from the device: one transfer for all; returns the new rows."""
        if not self._closed:
            return []
        reports = _stacked([report for _, pending in self._closed for report, _ in pending])
        values = iter(reports.to("cpu", torch.float64))
        fresh = []
        for row, pending in self._closed:
            total = sum(size for _, size in pending)
            mean = sum(next(values) * size for _, size in pending) / total
            fresh.append({**row, **dict(zip(COLUMNS, mean.tolist(), strict=True))})
        self._closed = []
        self.rows += fresh
        return fresh

    def columns(self) -> list[str]:
        """The names of all columns, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def state(self) -> dict[str, Any]:
        """A plain tree: all rows, and the reports of an epoch that is not over."""
        pending = _stacked([r for r, _ in self._pending]).cpu() if self._pending else None
        return {"rows": self.rows, "pending": pending, "sizes": [size for _, size in self._pending]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.rows = [dict(row) for row in state["rows"]]
        reports = [] if state["pending"] is None else list(state["pending"].unbind(0))
        self._pending = list(zip(reports, state["sizes"], strict=True))


def _stacked(reports: list[Tensor]) -> Tensor:
    """Reports of one run; those that came from a checkpoint lie on the CPU, newer ones on the device."""
    return torch.stack([report.to(reports[-1].device) for report in reports])
