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

    def entries(self, output: Tensor) -> TorchDistribution:
        """Each entry by its logit."""
        return dist.Bernoulli(logits=output)
