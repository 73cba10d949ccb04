"""Gate 1 over the table: the captured graph, run by torch, is the eager step to the bit; or the reason says why not."""

from __future__ import annotations

import re
import warnings

import pytest
from capture.gates import called, eagerly, own_store, started, traced
from capture.table import TABLE, Row

from ppl_vae.capture import FallbackWarning

EQUAL = {"losses": True, "gradients": True, "buffers": True, "noise": True}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_graph_is_the_eager_step(row: Row) -> None:
    with own_store(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FallbackWarning)
        _, program, inputs = started(row.make())
        if row.falls_back:
            traced(program, inputs)
            assert program.given_up
            assert re.search(row.falls_back, program.record.reason), program.record.reason
            return
        reference = eagerly(program, inputs)
        trace = traced(program, inputs)
        assert trace is not None and not program.given_up, program.record.reason
        assert trace.same_bits(reference) == EQUAL
        assert called(program, inputs).same_bits(reference) == EQUAL
