"""Whole numbers from real ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.flows.domains import Multiples
from ppl_vae.flows.layer import Coded, Layer, event_dims
from ppl_vae.flows.noise import Noise, UniformNoise
from ppl_vae.flows.shapes import event_shape_or_any


class Round(Layer):
    """x = step floor(z), and z = x / step + u with a drawn u in [0, 1): dequantization; contribution = -log q(u | x).

    A flow over z then gives a lower bound on the log probability of discrete data, log P(x) = log of the integral of
    p(z) over x / step + [0, 1)^D. With uniform noise the contribution is 0.

    Args:
        shape: the size or event shape; None for vectors of any size.
        step: the distance between neighbouring values of x, in the unit of the data. z is in steps.
        noise: q(u | x): ``UniformNoise()`` by default, or ``VariationalNoise(flow)``; it sees x / step flattened.
        context_dim: the size of a context that the noise takes as well.

    Raises:
        ValueError: step <= 0; under torch's argument validation, an x that is no whole multiple of it.

    Source: L. Theis, A. van den Oord, M. Bethge, "A note on the evaluation of generative models", 2016.

    >>> layer = Round(2)
    >>> z, contribution = layer.encode(torch.tensor([3.0, 16.0]))
    >>> layer.decode(z)
    (tensor([ 3., 16.]), tensor(-0.))
    """

    deterministic_encode = False

    def __init__(
        self,
        shape: int | Sequence[int] | None = None,
        *,
        step: float = 1.0,
        noise: Noise | None = None,
        context_dim: int | None = None,
    ) -> None:
        if not step > 0:
            raise ValueError(f"Round: step must be positive, got {step}")
        event = event_shape_or_any("Round", shape)
        super().__init__(event, event, context_dim=context_dim)
        self.step = step
        self.noise = UniformNoise() if noise is None else noise
        self.domain = Multiples(step)
        self.reparametrized_encode = self.noise.reparametrized

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        level = torch.round(x.detach() / self.step)
        u, log_q = self.noise.draw(self._flat(level), context)
        z = level + u.reshape(level.shape)
        # A u just below 1 may round up to the next level.
        return torch.minimum(z, torch.nextafter(level + 1, level)), -log_q

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        level = torch.floor(z.detach())
        log_q = self.noise.log_prob(self._flat(z - level), self._flat(level), context)
        return level * self.step, -log_q

    def _flat(self, value: Tensor) -> Tensor:
        return value.flatten(-event_dims(self.shape_in))
