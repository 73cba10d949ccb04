"""A prior over codes with free probabilities."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from ppl_vae.distributions import Codes
from ppl_vae.models.priors.code_prior import CodePrior


class Learned(CodePrior):
    """p(c) = prod_m π_m(c_m), with π, (M, K), learned; uniform at the start.

    Args:
        num_latents: M; left to the model by default.
        num_classes: K, likewise.

    Raises:
        ValueError: M < 1, K < 2, or one of the two alone.

    >>> Learned(3, 10)
    Learned(3, 10)
    """

    def __init__(self, num_latents: int | None = None, num_classes: int | None = None) -> None:
        super().__init__(num_latents, num_classes)
        self.logits = nn.Parameter(torch.zeros(num_latents or 0, num_classes or 0))

    def forward(self) -> TorchDistribution:
        """The distribution of one code."""
        return Codes(self.logits)
