"""The ELBO at fixed draws as a function of coordinates: what an optimizer of smooth functions is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.deterministic.blocks import Block
from ppl_vae.inference.deterministic.minimize import WORST
from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["Chart", "Objective"]


class Chart:
    """Coordinates v of every parameter that moves; v = 0 is where a fit begins.

    Args:
        blocks: the laws of the guide whose parameters are known.
        free: other leaves by name: θ, and of guides that make their laws in ways of their own.
        scale: what units of v are of these, all together: (P, P), or (P,) of each alone.
    """

    def __init__(self, blocks: Sequence[Block], free: Mapping[str, Tensor], scale: Tensor) -> None:
        self.blocks, self.free, self.scale = blocks, dict(free), scale
        self.origin = {name: leaf.detach().clone() for name, leaf in free.items()}
        self.sizes = [*(block.size for block in blocks), len(scale)]

    @property
    def size(self) -> int:
        """How many coordinates there are."""
        return sum(self.sizes)

    def leaves(self, v: Tensor) -> dict[str, Tensor]:
        """Every leaf at v (size,), by name, with derivatives in v."""
        parts = v.split(self.sizes)
        found: dict[str, Tensor] = {}
        for block, part in zip(self.blocks, parts, strict=False):
            found.update(block.leaves(part))
        moved = self.scale @ parts[-1] if self.scale.dim() == 2 else self.scale * parts[-1]
        pieces = moved.split([origin.numel() for origin in self.origin.values()])
        for (name, origin), piece in zip(self.origin.items(), pieces, strict=True):
            found[name] = origin + piece.reshape(origin.shape)
        return found


class Objective:
    """-ELBO at fixed draws, in nats, and its gradient, over the coordinates of a chart.

    A call puts the parameters there; the caller holds ``noise.scope()``.

    Args:
        noise: the pair's runs.
        chart: the coordinates.
        draws: (S, noise_dim) standard normal noise.
    """

    def __init__(self, noise: FixedNoise, chart: Chart, draws: Tensor) -> None:
        self.noise, self.chart, self.draws, self.evaluations = noise, chart, draws, 0

    def __call__(self, v: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and the gradient at v, float64."""
        self.evaluations += 1
        at = torch.as_tensor(v, dtype=self.draws.dtype, device=self.draws.device).requires_grad_()
        leaves = self.chart.leaves(at)
        self.place(leaves)
        try:
            value, gradients = self._measure(list(leaves))
        except torch.linalg.LinAlgError:  # a matrix of the model has no factor here
            return WORST, np.zeros_like(v)
        (gradient,) = torch.autograd.grad(list(leaves.values()), at, gradients)
        total = np.append(gradient.double().cpu().numpy(), value)
        if not np.isfinite(total).all():
            return WORST, np.zeros_like(v)
        return -value, -gradient.double().cpu().numpy()

    def place(self, leaves: Mapping[str, Tensor]) -> None:
        """Give the pair's parameters these values."""
        mine = self.noise.pair.parameters.leaves
        with torch.no_grad():
            for name, leaf in leaves.items():
                mine[name].copy_(leaf)

    def _measure(self, names: Sequence[str]) -> tuple[float, list[Tensor]]:
        """The ELBO, and its gradient in each leaf; in blocks of draws that bound the memory."""
        mine = [self.noise.pair.parameters.leaves[name] for name in names]
        gradients, total = [torch.zeros_like(leaf) for leaf in mine], 0.0
        for draws in self.draws.split(self.noise.block):
            placed = self.noise.at_noise(draws)
            elbo = (placed.log_p - placed.log_q).sum() / len(self.draws)
            total += float(elbo.detach())
            found = torch.autograd.grad(elbo, mine, allow_unused=True)
            for gradient, part in zip(gradients, found, strict=True):
                if part is not None:
                    gradient += part
        return total, gradients
