"""Leading dimensions (particles, enumeration, draws) flattened into one batch axis around a network call."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten_leading(inputs: Tensor, event_dim: int = 1) -> tuple[Tensor, torch.Size]:
    """Flatten every dimension left of the event into one.

    Args:
        inputs: (*leading, *event).
        event_dim: the number of event dimensions on the right; what stands left of them is the batch.

    Returns:
        The tensor as (prod(leading), *event), and ``leading``, to be given back to the result.

    Raises:
        ValueError: ``inputs`` has fewer than ``event_dim`` dimensions.

    >>> flat, leading = flatten_leading(torch.zeros(5, 1, 100, 8))
    >>> flat.shape, leading
    (torch.Size([500, 8]), torch.Size([5, 1, 100]))
    """
    if inputs.dim() < event_dim:
        raise ValueError(
            f"flatten_leading: the input must have at least {event_dim} dimensions (event_dim={event_dim}), "
            f"got {tuple(inputs.shape)}"
        )
    split = inputs.dim() - event_dim
    leading, event = inputs.shape[:split], inputs.shape[split:]
    # numel() and not -1: an empty batch has no size to infer.
    return inputs.reshape(leading.numel(), *event), leading


def apply_batched(net: nn.Module, inputs: Tensor, event_dim: int = 1) -> Tensor:
    """Call a network that wants (B, *event) on an input with any number of leading dimensions.

    Convolutions, batch normalization and the like take exactly one batch axis, while a Pyro site may carry
    particle plates and enumeration dimensions to its left. This is the one place where the two meet.

    Args:
        net: maps (B, *event) to (B, *output).
        inputs: (*leading, *event).
        event_dim: the number of event dimensions of the input.

    Returns:
        (*leading, *output).

    Raises:
        ValueError: the network did not keep the batch axis.

    >>> net = nn.Conv2d(1, 3, kernel_size=3)
    >>> apply_batched(net, torch.zeros(5, 1, 10, 1, 8, 8), event_dim=3).shape
    torch.Size([5, 1, 10, 3, 6, 6])
    """
    flat, leading = flatten_leading(inputs, event_dim)
    output = net(flat)
    if output.dim() < 1 or output.shape[0] != flat.shape[0]:
        raise ValueError(
            f"apply_batched: {type(net).__name__} must return ({flat.shape[0]}, ...) for an input "
            f"{tuple(flat.shape)}, got {tuple(output.shape)}"
        )
    return output if len(leading) == 1 else output.reshape(leading + output.shape[1:])
