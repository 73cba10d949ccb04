"""Modules in training or evaluation mode for a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def mode_of(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    """Put modules and all their parts into training or evaluation mode, and give each its own mode back."""
    before = {part: part.training for module in modules for part in module.modules()}
    for part in before:
        part.training = training
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was
