"""Gate 2: the compiled step against the graph that torch runs, from the same state and noise."""

from __future__ import annotations

import pytest
from capture.gates import allowed, judged
from capture.table import TABLE, Row

from ppl_vae.capture import missing_compiler

QUICK = (
    "Trace_ELBO",
    "TraceEnum_ELBO, guide enumerated in parallel",
    "RenyiELBO, alpha 0, particles vectorized",
    "flow in the guide, affine coupling",
    "BatchNorm in both networks",
    "IWAE(5)",
)

pytestmark = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))


@pytest.mark.parametrize("name", QUICK)
def test_the_compiled_step_is_the_graph(name: str) -> None:
    found = judged(next(row for row in TABLE if row.name == name))
    assert allowed(found), found


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in TABLE if not row.falls_back], ids=lambda row: row.name)
def test_every_row_of_the_table(row: Row) -> None:
    """``python tests/capture/gate_table.py`` prints the errors as the table of docs/compiled.md."""
    found = judged(row)
    assert allowed(found), found
