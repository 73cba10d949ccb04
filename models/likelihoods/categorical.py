"""Entries on a scale of levels, such as grey values."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ppl_vae.distributions import CategoricalLevels
from ppl_vae.models.likelihoods.base import Likelihood


class Categorical(Likelihood):
    """Entries on evenly spaced levels: p(x_d = low + k step | z) = softmax(decoder(z)_d)_k.

    The decoder returns (..., *event, num_levels) logits, for instance ``MLP(8, (64, 17))``. The mean is a
    number in the unit of the data, not a class.

    Args:
        num_levels: K, the number of levels.
        low: the smallest level, in the unit of the data.
        step: the distance between levels, in the unit of the data (1/16 for ``load_digits()``, 1/255 for
            MNIST).

    Raises:
        ValueError: num_levels < 2, step <= 0.
    """

    def __init__(self, num_levels: int, *, low: float = 0.0, step: float = 1.0) -> None:
        super().__init__()
        if num_levels < 2 or not step > 0:
            raise ValueError(
                f"Categorical: num_levels >= 2 and step > 0 are required, got num_levels={num_levels}, step={step}"
            )
        self.num_params = num_levels
        self.low, self.step = low, step
        self.filler = low
        self.advice = (
            f"its levels are {low:g} + {step:g} k for k = 0..{num_levels - 1}: give num_levels, low and step in the "
            "unit of the data, or bring the data to these levels"
        )

    def possible(self, x: Tensor) -> Tensor:
        """The levels."""
        levels = CategoricalLevels(x.new_zeros(self.num_params, dtype=torch.float64), low=self.low, step=self.step)
        return levels.support.check(x)

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry by the logits of its levels."""
        return CategoricalLevels(output, low=self.low, step=self.step)
