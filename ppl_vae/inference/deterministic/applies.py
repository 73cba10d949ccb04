"""May a pair be fitted at fixed noise? If not, the reason in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ppl_vae.data.rows import Rows
from ppl_vae.pair import Pair
from ppl_vae.pair.fixed_noise import require_fixed_noise

__all__ = ["MOST_ELEMENTS", "MOST_PARAMETERS", "reason_against"]

MOST_PARAMETERS = 20_000
"""A model or guide with more is fitted on mini-batches: networks gain nothing by a minimum that is exact."""
MOST_ELEMENTS = 2_000_000
"""So many numbers of data are seen whole at every one of some hundred draws; more are seen in mini-batches."""


def reason_against(
    model: Callable[..., Any],
    guide: Any,
    data: Any,
    *,
    data_plate: str | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> str:
    """Why ``DeterministicVI`` does not fit this pair, or "".

    The pair is run once, in the precision that it has, with lazy parameters made from ``seed`` as the fit would make
    them; errors of the pair itself pass. A matrix that has no factor in 32 bits is given the 64 of the deterministic
    way.
    """
    if isinstance(data, DataLoader):
        return "the data come from a DataLoader, in mini-batches"
    pair = Pair(model, guide, data_plate=data_plate, dtype=dtype)
    rows = pair.rows(data)
    if not isinstance(rows, Rows):
        return "the data are read a batch at a time"
    elements = sum(t.numel() for t in (*rows.args, *rows.kwargs.values()) if isinstance(t, Tensor))
    if elements > MOST_ELEMENTS:
        return f"the data have {elements:,} numbers, more than {MOST_ELEMENTS:,}"
    try:
        pair.initialize(rows, seed=seed)
    except torch.linalg.LinAlgError:
        if pair.dtype == torch.float64:
            raise
        return reason_against(model, guide, data, data_plate=data_plate, seed=seed, dtype=torch.float64)
    count = sum(leaf.numel() for leaf in pair.parameters_by_name().values())
    if count > MOST_PARAMETERS:
        return f"the pair has {count:,} parameters, more than {MOST_PARAMETERS:,}"
    try:
        require_fixed_noise(pair, rows.batch())
    except ValueError as error:
        return str(error)
    return ""
