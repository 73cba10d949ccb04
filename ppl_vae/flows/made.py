"""The masked network of autoregressive layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.flows.small import start_small


class MADE(nn.Module):
    """A multilayer perceptron whose d-th outputs depend on inputs 1, ..., d - 1 and on the context only.

    Every hidden unit has a degree m: it sees inputs up to m, and the outputs after m see it. A conditional network also
    has units of degree 0, which see only the context.

    Args:
        dim: D, the number of inputs.
        num_params: how many outputs there are for each of them.
        hidden: the widths of the hidden layers, at least one.
        activation: makes the activation.
        context_dim: the size of the context; None without one.

    Raises:
        ValueError: no hidden layer.

    Source: M. Germain, K. Gregor, I. Murray, H. Larochelle, "MADE: masked autoencoder for distribution estimation",
    2015.
    """

    def __init__(
        self,
        dim: int,
        num_params: int,
        *,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module],
        context_dim: int | None,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("MADE: at least one hidden layer is required, got hidden=()")
        self.num_params = num_params
        lowest = 0 if context_dim is not None or dim == 1 else 1
        degrees = [torch.arange(1, dim + 1), *(_degrees(width, lowest, dim - 1) for width in hidden)]
        outputs = torch.arange(1, dim + 1).repeat(num_params) - 1
        self.layers = nn.ModuleList(MaskedLinear(below, above) for below, above in pairwise([*degrees, outputs]))
        self.activations = nn.ModuleList(activation() for _ in hidden)
        self.context = None if context_dim is None else nn.Linear(context_dim, hidden[0], bias=False)
        start_small(self.layers[-1])

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """(..., D) for each of the parameters."""
        value = self.layers[0](x)
        if self.context is not None:
            value = value + self.context(context)
        for activation, layer in zip(self.activations, self.layers[1:], strict=True):
            value = layer(activation(value))
        return value.chunk(self.num_params, -1)


class MaskedLinear(nn.Linear):
    """A linear layer in which a unit sees the units below it whose degree is at most its own.

    Args:
        below, above: the degrees of the inputs and of the outputs.
    """

    mask: Tensor

    def __init__(self, below: Tensor, above: Tensor) -> None:
        super().__init__(len(below), len(above))
        self.register_buffer("mask", (below <= above.unsqueeze(-1)).to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """W ⊙ mask, applied."""
        return F.linear(x, self.weight * self.mask, self.bias)


def _degrees(width: int, lowest: int, highest: int) -> Tensor:
    """The degrees of hidden units: every one in turn, or spread over the range where units are fewer than degrees."""
    number = highest - lowest + 1
    if width >= number:
        return lowest + torch.arange(width) % number
    return lowest + torch.linspace(0, number - 1, width).round().long()
