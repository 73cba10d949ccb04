"""Baselines: what is subtracted from a learning signal, so that the score function estimator has less variance.

A baseline may depend on the data and on earlier steps, never on the draws of this one: then it changes no expectation.

Implementing a new one:

- derive from :class:`Baseline`; keep numbers that a step changes in buffers, and change them in place in ``learn``;
- ``forward`` reads the data alone, and is called before ``learn`` sees the draws.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ppl_vae.data.rows import Batch


class Baseline(nn.Module):
    """What is subtracted from a learning signal."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The baseline of each datum (B,), or one number () for all, in nats."""

    @abstractmethod
    def learn(self, signal: Tensor, value: Tensor) -> Tensor | None:
        """Take in a signal.

        Args:
            signal: (S, B) nats, constant: what was there to be predicted.
            value: what ``forward`` gave for it.

        Returns:
            What is to be maximized in the baseline's parameters, (); None if it has none.
        """


class RunningAverage(Baseline):
    r"""An exponentially weighted mean of the signals of earlier steps, a number for all data.

    .. math:: c_t = \frac{\sum_{s<t} \lambda^{t-1-s} \bar\ell_s}{\sum_{s<t} \lambda^{t-1-s}}

    Args:
        decay: λ, from 0 (the step before alone) to below 1.

    Source: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.
    """

    average: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"RunningAverage: 0 <= decay < 1 is required, got {decay}")
        self.decay = float(decay)
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, batch: Batch) -> Tensor:
        """The mean so far, () nats; 0 before the first step."""
        return self.average / self.weight.clamp(min=torch.finfo(self.weight.dtype).tiny)

    def learn(self, signal: Tensor, value: Tensor) -> None:
        """Take in the mean of a signal."""
        with torch.no_grad():
            self.average.mul_(self.decay).add_((1 - self.decay) * signal.mean())
            self.weight.mul_(self.decay).add_(1 - self.decay)

    def __repr__(self) -> str:
        return f"RunningAverage(decay={self.decay})"


class Neural(Baseline):
    r"""A network of the data, trained on what it has to predict.

    .. math:: b_\psi(x), \qquad \psi \leftarrow \arg\min_\psi E[(\ell - b_\psi(x))^2]

    Args:
        net: maps the first data argument, flattened to (B, -1), to (B,) or (B, 1) nats. Its parameters are the group ψ.

    Source: Mnih, Gregor, "Neural Variational Inference and Learning in Belief Networks", 2014.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"Neural: a torch module is required, got {net!r}")
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in net.parameters()):
            raise ValueError("Neural: a network of known sizes is required, got one with lazy parameters")
        self.net = net

    def forward(self, batch: Batch) -> Tensor:
        """The network's number for each datum: (B,) nats."""
        x = next((t for t in (*batch.args, *batch.kwargs.values()) if isinstance(t, Tensor) and t.dim()), None)
        if x is None:
            raise ValueError("Neural: data are required, got a batch without tensors")
        weight = next(self.net.parameters(), None)
        x = x.reshape(len(x), -1)
        value: Tensor = self.net(x if weight is None else x.to(weight.dtype))
        if value.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"Neural: the network must return (B,) or (B, 1) for B={len(x)} rows of {x.shape[1]} numbers, "
                f"got {tuple(value.shape)}"
            )
        return value.reshape(len(x))

    def learn(self, signal: Tensor, value: Tensor) -> Tensor:
        """Minus the mean squared error, ()."""
        return -(signal - value).square().mean()

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.net.parameters())
        return f"Neural({type(self.net).__name__} with {count} parameters)"
