"""Tell Pyro's handlers of parameters that stand in no parameter store: its SVI moves what it has been told of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro import poutine
from torch import Tensor


def announce(leaves: Mapping[str, Tensor]) -> None:
    """Make a param statement for each of these leaves, by name; without handlers nothing happens."""
    for name, leaf in leaves.items():
        _statement(leaf, name=name)


def _value(leaf: Tensor) -> Any:
    value: Any = leaf.detach()  # Pyro asks a value for its leaf; the leaf itself must stay fit for copies and pickles
    value.unconstrained = lambda: leaf
    return value


_statement = poutine.runtime.effectful(type="param")(_value)
