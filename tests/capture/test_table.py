"""Every row of the table is a sound problem: eager steps work, losses are finite, something learns."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from capture.table import TABLE, Row
from pyro.infer import SVI
from pyro.optim import Adam


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_eager_steps(row: Row) -> None:
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        problem = row.make()
        svi = SVI(problem.model, problem.guide, Adam({"lr": 1e-3}), problem.loss)
        store = pyro.get_param_store()
        losses, states = [], []
        for _ in range(2):
            loss = svi.step(*problem.args, **problem.kwargs)
            losses += loss if isinstance(loss, tuple) else [loss]
            states.append({name: leaf.detach().clone() for name, leaf in store.named_parameters()})
    assert all(math.isfinite(loss) for loss in losses), losses
    first, second = states
    assert any(not torch.equal(first[name], second[name]) for name in first.keys() & second.keys())
