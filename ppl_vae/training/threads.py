"""How many threads a step is worth: a rule in sizes, so that a seed means the same numbers on every run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 20_000_000
"""Multiplications a pass below which a second thread costs more than it saves (measured on two cores)."""


def is_small(num_weights: int, num_rows: int, num_values: int) -> bool:
    """Is a step this small? Weights times rows counts what dense networks do, and is low for convolutions.

    Args:
        num_weights: entries of all parameters.
        num_rows: rows times particles.
        num_values: entries of the data of a step.
    """
    return num_weights * num_rows + num_values < SMALL


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
