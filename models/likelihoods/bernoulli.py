"""Binary entries."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ppl_vae.models.likelihoods.base import Likelihood


class Bernoulli(Likelihood):
    """Entries in {0, 1}: p(x_d = 1 | z) = sigmoid(decoder(z)_d).

    The decoder returns logits (..., *event).
    """

    advice = (
        "divide grey levels by their top (255, 16) and round them or draw zeros and ones of them "
        "(ppl_vae.data.dynamic_binarization), or take likelihood='normal', or Categorical(num_levels=...)"
    )

    def possible(self, x: Tensor) -> Tensor:
        """Zeros and ones."""
        return (x == 0) | (x == 1)

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry by its logit."""
        return dist.Bernoulli(logits=output)
