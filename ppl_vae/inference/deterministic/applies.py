"""May a pair be fitted at fixed noise? If not, the reason in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ppl_vae.data.rows import Rows
from ppl_vae.data.source import Source
from ppl_vae.inference.deterministic.links import links
from ppl_vae.pair import Pair
from ppl_vae.pair.fixed_noise import FixedNoise, require_fixed_noise

__all__ = ["MOST_ELEMENTS", "MOST_FREE", "MOST_PARAMETERS", "in_double", "reason_against"]

MOST_PARAMETERS, MOST_FREE = 200_000, 20_000
"""A pair with more parameters, or with more besides the locations and spreads of normal laws, is fitted on
mini-batches: networks gain nothing by a minimum that is exact."""
MOST_ELEMENTS = 2_000_000
"""So many numbers of data are seen whole at every one of some hundred draws; more are seen in mini-batches."""


_OF_PRECISION = ("dtype", "scalar type")
"""What torch's errors say where two precisions meet."""


def reason_against(
    model: Callable[..., Any], guide: Any, data: Any, *, data_plate: str | None = None, seed: int = 0
) -> str:
    """Why ``DeterministicVI`` does not fit this pair, or "".

    The pair is run once, in the precision in which it would be fitted, with lazy parameters made from ``seed`` as the
    fit would make them; errors of the pair itself pass. Where there is a reason, modules get their own precision back.
    """
    if isinstance(data, DataLoader):
        return "the data come from a DataLoader, in mini-batches"
    make = partial(Pair, model, guide, data_plate=data_plate)
    own = make()
    rows: Any = own.rows(data)
    if not isinstance(rows, Rows):
        return "the data are read a batch at a time"
    elements = sum(t.numel() for t in (*rows.args, *rows.kwargs.values()) if isinstance(t, Tensor))
    if elements > MOST_ELEMENTS:
        return f"the data have {elements:,} numbers, more than {MOST_ELEMENTS:,}"
    try:
        pair, rows = in_double(make, data, own=own.dtype, seed=seed)
        reason = _of_pair(pair, rows)
    except Exception:
        make(dtype=own.dtype)
        raise
    if reason:
        make(dtype=own.dtype)
    return reason


def _of_pair(pair: Pair, rows: Source) -> str:
    count = sum(leaf.numel() for leaf in pair.parameters_by_name().values())
    if count > MOST_PARAMETERS:
        return f"the pair has {count:,} parameters, more than {MOST_PARAMETERS:,}"
    try:
        require_fixed_noise(pair, rows.batch())
    except ValueError as error:
        return str(error)
    if count <= MOST_FREE:
        return ""
    known = links(FixedNoise(pair, rows.batch())).values()
    free = count - sum(leaf.tensor.numel() for link in known for leaf in link.leaves.values())
    return (
        f"the pair has {free:,} parameters besides its normal laws, more than {MOST_FREE:,}" if free > MOST_FREE else ""
    )


def in_double(make: Callable[..., Pair], data: Any, *, own: torch.dtype, seed: int) -> tuple[Pair, Source]:
    """A pair that was run once on its rows: in 64 bits, or in its ``own`` precision where it does not run in these.

    A model that multiplies matrices with tensors of its own in 32 bits is such a one.

    Args:
        make: of a pair, in the precision ``dtype=``.
        data: the rows.
        own: the precision of its modules.
        seed: of lazy parameters.
    """
    pair = make(dtype=torch.float64)
    try:
        rows = pair.rows(data)
        return pair.initialize(rows, seed=seed), rows
    except (RuntimeError, ValueError) as error:
        known = any(word in f"{error} {error.__cause__}".lower() for word in _OF_PRECISION)
        if not known or own == torch.float64:
            raise
    pair = make(dtype=own)
    rows = pair.rows(data)
    return pair.initialize(rows, seed=seed), rows
