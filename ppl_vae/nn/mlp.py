"""The multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron: linear layers with an activation between them and none after the last.

    h_0 = x,  h_i = activation(W_i h_{i-1} + b_i),  output = W h + b.

    Args:
        in_features: the size of the last input dimension.
        out_features: the size of the last output dimension, or a shape: ``MLP(8, (64, 17))`` returns (...,
            64, 17), as a likelihood with 17 numbers per pixel wants it.
        hidden: the widths of the hidden layers; ``()`` gives a linear map.
        activation: makes the activation, one per hidden layer: ``nn.SiLU``, ``nn.ReLU``, ...
        bias: whether the layers have one.

    Raises:
        ValueError: a size below 1; in a call, a last input dimension that is not ``in_features``.

    >>> import torch
    >>> MLP(64, 16)(torch.zeros(5, 100, 64)).shape
    torch.Size([5, 100, 16])
    >>> MLP(64, 16)
    MLP(64 -> 128 -> 128 -> 16, SiLU)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | Sequence[int],
        *,
        hidden: Sequence[int] = (128, 128),
        activation: Callable[[], nn.Module] = nn.SiLU,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_shape = (out_features,) if isinstance(out_features, int) else tuple(out_features)
        self.widths = (in_features, *hidden, math.prod(self.out_shape))
        if min(self.widths) < 1:
            raise ValueError(f"MLP: every size must be at least 1, got {' -> '.join(map(str, self.widths))}")
        self.layers = nn.Sequential(*_layers(self.widths, activation, bias))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in_features) to (..., *out_shape)."""
        if inputs.dim() < 1 or inputs.shape[-1] != self.in_features:
            raise ValueError(f"MLP: the input must be (..., {self.in_features}), got {tuple(inputs.shape)}")
        output = self.layers(inputs)
        return output if len(self.out_shape) == 1 else output.unflatten(-1, self.out_shape)

    def __repr__(self) -> str:
        names = [type(layer).__name__ for layer in self.layers if not isinstance(layer, nn.Linear)]
        return f"MLP({' -> '.join(map(str, self.widths))}{', ' + names[0] if names else ''})"


def _layers(widths: Sequence[int], activation: Callable[[], nn.Module], bias: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), activation()]
    return layers[:-1]
