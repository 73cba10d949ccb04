"""What a model observes of each row, as one number: by it two results know whether they are of the same data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae.pair.particles import outward

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["fingerprints"]


def fingerprints(pair: Pair, rows: Source) -> Tensor:
    """A number of each row that tells the values observed in it from others, (N,) int64.

    Covariates do not count, nor what sites are called: models of one y by other columns of x, or in float64 and
    float32, have the same. Another unit or transform of y, or another order of rows, gives others.
    """
    batch = rows.batch()
    with pair.evaluating(0):
        trace = pair.runner.run_model(batch, {}, None, ()).model_trace
    tables = []
    for name, site in pair.sites.seen.items():
        if site.is_local and name in trace.nodes:
            value = outward(torch.as_tensor(trace.nodes[name]["value"]), site, pair.layout, False)[0].detach().cpu()
            table = value.float().reshape(len(value), -1).numpy() + np.float32(0.0)  # one zero, and not two
            tables.append([hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in table])
    found = [hashlib.blake2b(b"".join(sorted(row)), digest_size=8).digest() for row in zip(*tables, strict=True)]
    return torch.tensor([int.from_bytes(row, "big", signed=True) for row in found], dtype=torch.int64)
