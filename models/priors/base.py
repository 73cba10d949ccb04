"""The contract of a prior."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn


class Prior(nn.Module):
    """p(z): a module that, called, returns a Pyro distribution with no batch and event shape (latent_dim,).

    Parameters are ordinary ``nn.Parameter``, hence part of θ; constants are buffers, so that moves to a
    device or a floating type take them along. The distribution must score and sample; it needs no
    reparametrized sample, because z is drawn from the guide while training.

    Implementing a new one:

    - subclass and write ``forward()`` (a subclass is for the reader: any module with this ``forward`` will
      do);
    - keep constants in buffers;
    - add it to the table in ``tests/models/test_priors.py``.
    """

    def forward(self) -> TorchDistribution:
        """The distribution of one z."""
        raise NotImplementedError(f"{type(self).__name__}: a prior must define forward()")
