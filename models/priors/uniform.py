"""The default prior over codes."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ppl_vae.distributions import Codes
from ppl_vae.models.priors.code_prior import CodePrior


class Uniform(CodePrior):
    """p(c) = K^-M: each of M latents uniform over its K classes, so KL(q(c|x) || p(c)) = M log K - H(q(c|x)).

    Args:
        num_latents: M; left to the model by default.
        num_classes: K, likewise.

    Raises:
        ValueError: M < 1, K < 2, or one of the two alone.

    >>> Uniform(3, 10)().event_shape
    torch.Size([3])
    """

    logits: Tensor

    def __init__(self, num_latents: int | None = None, num_classes: int | None = None) -> None:
        super().__init__(num_latents, num_classes)
        # Not in the state_dict: there is nothing to save.
        self.register_buffer("logits", torch.zeros(num_latents or 0, num_classes or 0), persistent=False)

    def forward(self) -> TorchDistribution:
        """The distribution of one code."""
        return Codes(self.logits)
