"""How many threads a step is worth: a rule in sizes, so that a seed means the same numbers on every run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ppl_vae.data.rows import Batch

SMALL = 20_000_000
"""Multiplications a pass below which a second thread costs more than it saves (measured on two cores)."""


def is_small(leaves: list[Tensor], batch: Batch, num_particles: int) -> bool:
    """Is a step this small? Weights times rows counts what dense networks do, and is low for convolutions."""
    rows = (batch.size or 1) * num_particles
    data = sum(t.numel() for t in batch.args if isinstance(t, Tensor))
    return sum(leaf.numel() for leaf in leaves) * rows + data < SMALL


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Run a block on one thread if ``wanted``; the caller's number is given back after it."""
    before = torch.get_num_threads()
    if wanted and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
