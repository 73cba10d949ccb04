"""The network of a coupling layer: from the numbers that are kept, and a context, to the parameters of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ppl_vae.flows.small import start_small
from ppl_vae.nn import MLP


class Conditioner(nn.Module):
    """A multilayer perceptron with a context added before the first activation.

    h = activation(W x + b + V c),  and on as an ``MLP``.

    The context has a matrix of its own, so that it is multiplied once however many x stand beside it.

    Args:
        in_features: the size of x.
        out_features: the size of what is returned, or a shape.
        hidden: the widths of the hidden layers; ``()`` gives a linear map.
        activation: makes the activation.
        context_dim: the size of c; None without a context.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | Sequence[int],
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        network = MLP(in_features, out_features, hidden=hidden, activation=activation)
        self.out_shape = network.out_shape
        self.layers = network.layers
        self.context = None if context_dim is None else nn.Linear(context_dim, network.widths[1], bias=False)
        start_small(self.layers[-1])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (*leading, in_features) and (..., context_dim) to (*leading, *out_shape)."""
        layers = iter(self.layers)
        value = next(layers)(x)
        if self.context is not None:
            value = value + self.context(context)
        for layer in layers:
            value = layer(value)
        return value if len(self.out_shape) == 1 else value.unflatten(-1, self.out_shape)
