"""The account of an engine as a table: what runs how, why, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ppl_vae.capture.program import Record

_COLUMNS = (
    ("signature", "signature"),
    ("status", "status"),
    ("nodes", "nodes"),
    ("capture s", "capture_seconds"),
    ("compile s", "compile_seconds"),
    ("eager", "eager_steps"),
    ("graph", "graph_steps"),
    ("compiled", "compiled_steps"),
    ("error", "worst_error"),
    ("products", "products"),
    ("why", "reason"),
)


class Explanation:
    """What :meth:`explain` gives: a row for each signature; ``print`` shows a table.

    Attributes:
        rows: the records: signature, status ("eager", "graph" or "compiled"), reason, nodes of the graph, seconds of
            capture and of compiling, who makes the matrix products (oneDNN's micro-kernels, or torch, which calls MKL),
            steps run in each way, the last step that was compared with the eager one, and the worst error of a gradient
            then, relative to the largest entry.
        beside: how many calls were eager without a signature, by the reason (the very first step of ``CompiledSVI``,
            eager in any case, is not counted).
    """

    def __init__(self, rows: list[Record], beside: Mapping[str, int] | None = None) -> None:
        self.rows, self.beside = rows, dict(beside or {})

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def __str__(self) -> str:
        if not self.rows and not self.beside:
            return "no step has been made yet"
        apart = [f"{n} {'call' if n == 1 else 'calls'} eager: {reason}" for reason, n in self.beside.items()]
        return "\n".join([*(self._table() if self.rows else []), *apart])

    def _table(self) -> list[str]:
        cells = [[title for title, _ in _COLUMNS]]
        cells += [[_cell(getattr(row, name)) for _, name in _COLUMNS] for row in self.rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
        return [line.rstrip() for line in lines]

    __repr__ = __str__


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2g}" if value else "-"
    return str(value) if value not in (0, "") else "-"
