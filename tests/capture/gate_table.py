"""Both gates over the whole table, as the Markdown table of docs/compiled.md: python tests/capture/gate_table.py"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from capture.gates import judged, own_store, started, traced
from capture.table import TABLE, Row


def line(row: Row) -> str:
    if not row.falls_back:
        found = judged(row)
        error = max(found.gradients, found.losses, found.buffers)
        return f"| {row.name} | {found.nodes} | {error:.0e} | {found.compile_seconds:.1f} |"
    with own_store():
        _, program, inputs = started(row.make())
        traced(program, inputs)
    return f"| {row.name} | - | eager: {program.record.reason.partition(' (')[0]} | - |"


def main() -> None:
    warnings.simplefilter("ignore")
    print("| pair and loss | nodes | worst error | compile s |\n|---|---|---|---|")
    chosen = sys.argv[1:]
    for row in [row for row in TABLE if not chosen or any(word in row.name for word in chosen)]:
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
