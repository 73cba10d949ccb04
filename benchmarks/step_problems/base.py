"""What a problem is, and the networks: torch's, and the same weights in JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Unavailable(Exception):
    """A library cannot do this problem; the message says why."""


@dataclass(frozen=True)
class Problem:
    """One model with its data. Each method builds everything anew, from the same initial weights.

    data: (N, D); a step takes `batch` rows drawn with replacement, or all of them where batch is N.
    """

    data: Tensor
    batch: int

    def pyro(self) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        """Model and guide, functions of the rows, and the loss object."""
        raise NotImplementedError

    def by_hand(self) -> tuple[Iterable[Tensor], Callable[[Tensor], Tensor]]:
        """Parameters, and the loss: rows to the negative bound, summed over the rows."""
        raise NotImplementedError

    def numpyro(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
        """Like pyro()."""
        raise NotImplementedError

    @property
    def full(self) -> bool:
        """Whether every step takes all rows."""
        return self.batch == len(self.data)

    def draw(self, num_steps: int) -> Tensor:
        """(num_steps, batch): the rows of each step."""
        return torch.randint(len(self.data), (num_steps, self.batch))

    def rows(self, index: Tensor) -> Tensor:
        """The mini-batch of one step."""
        return self.data if self.full else self.data[index]


def layers(*widths: int) -> nn.Sequential:
    """Linear layers with a softplus between any two."""
    parts: list[nn.Module] = []
    for width, following in pairwise(widths):
        parts += [nn.Linear(width, following), nn.Softplus()]
    return nn.Sequential(*parts[:-1])


def weights(module: nn.Module) -> list[tuple[Any, Any]]:
    """The same layers for JAX."""
    import jax.numpy as jnp

    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return [(jnp.array(part.weight.detach().T.numpy()), jnp.array(part.bias.detach().numpy())) for part in linear]


def forward(parameters: list[tuple[Any, Any]], x: Any) -> Any:
    """Layers of `weights` in JAX."""
    import jax

    *hidden, (last, bias) = parameters
    for weight, offset in hidden:
        x = jax.nn.softplus(x @ weight + offset)
    return x @ last + bias


def numpyro_enumerates() -> None:
    """Raise where NumPyro's enumeration is not installed."""
    try:
        import numpyro.contrib.funsor  # noqa: F401
    except ImportError as error:
        raise Unavailable("NumPyro enumerates by funsor, which is not installed: pip install funsor") from error
