"""Tell Pyro's handlers of parameters that stand in no parameter store: its SVI moves what it has been told of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor

from ppl_vae._private import stored_names


def announce(leaves: Mapping[str, Tensor]) -> None:
    """Make a param statement for each of these leaves, by name; without handlers nothing happens.

    Their values stay out of Pyro's store, where a leaf of an earlier run could stand under the same name. The store is
    told the names alone: an optimizer of Pyro's asks it for them, to keep its state by name.
    """
    if poutine.runtime.am_i_wrapped():
        stored_names(pyro.get_param_store()).update({leaf: name for name, leaf in leaves.items()})
        for name, leaf in leaves.items():
            _statement(leaf, name=name)


def _value(leaf: Tensor) -> Any:
    value: Any = leaf.detach()  # Pyro asks a value for its leaf; the leaf itself must stay fit for copies and pickles
    value.unconstrained = lambda: leaf
    return value


_statement = poutine.runtime.effectful(type="param")(_value)
