"""Calls of the distributions that a layer was given, with what can be wrong about them said once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def call(module: nn.Module, value: Tensor, context: Tensor | None) -> Any:
    """What a module returns for a value and, where there is one, a context."""
    return module(value) if context is None else module(value, context)


def log_prob(who: str, distribution: Any, value: Tensor, leading: torch.Size) -> Tensor:
    """Log density of a value, (*leading) in nats.

    Raises:
        ValueError: the density comes in another shape: an event dimension was not declared.
    """
    density = distribution.log_prob(value)
    if density.shape != leading:
        raise ValueError(
            f"{who}: its distribution must score {tuple(value.shape)} as {tuple(leading)}, got {tuple(density.shape)}; "
            "declare the event, as in .to_event(1)"
        )
    return density


def reparametrized_draw(who: str, distribution: Any) -> Tensor:
    """A draw through which derivatives pass.

    Raises:
        ValueError: the distribution has none.
    """
    if not distribution.has_rsample:
        raise ValueError(
            f"{who}: a distribution with a reparametrized sample is required, or its parameters would get wrong "
            f"gradients, got {type(distribution).__name__}"
        )
    return distribution.rsample()
