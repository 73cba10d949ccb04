"""Data in the units of a person, where the pair has others: changed at the door, both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ppl_vae.data.rows import Rows
from ppl_vae.data.source import Source, Stored

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

DATA = "x"  # the argument and the observed site that the units are of


class Units(Protocol):
    """A map between the units of the data and those of the pair."""

    def forward(self, rows: Tensor) -> Tensor:
        """To the units of the pair, (N, *event)."""
        ...

    def undo(self, rows: Tensor) -> Tensor:
        """Back, (..., N, *event)."""
        ...


def rows_in(pair: Pair, data: Any, rows: Source) -> Source:
    """The rows of ``data`` in the units of the pair; what is a source of rows already is in these."""
    units = pair.units
    if units is None or isinstance(data, Rows | Stored):
        return rows
    if isinstance(rows, Rows):
        return _scaled(rows, units)
    assert isinstance(rows, Stored)

    def fetch(place: Any) -> Rows:
        return _scaled(rows.take(place if isinstance(place, slice) else torch.as_tensor(place)), units)

    return replace(rows, fetch=fetch)


def _scaled(rows: Rows, units: Units) -> Rows:
    if DATA in rows.kwargs:
        return replace(rows, kwargs={**rows.kwargs, DATA: units.forward(rows.kwargs[DATA])})
    if rows.args:
        return replace(rows, args=(units.forward(rows.args[0]), *rows.args[1:]))
    return rows


def shown(pair: Pair, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values by site, those of the data in their own units."""
    units = pair.units
    if units is None or DATA not in values or DATA not in pair.observed:
        return values
    return {**values, DATA: units.undo(values[DATA])}
