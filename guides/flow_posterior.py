"""A flow as the posterior of a latent that all data share, or that has none."""

from __future__ import annotations

from typing import Any

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.flows import FlowDistribution, Layer
from ppl_vae.flows.base import base_of
from ppl_vae.flows.flow_distribution import require_density, require_path


class FlowPosterior(PyroModule):
    r"""q(z): z = g(ε), ε ~ base, outside every plate: fitted to p(z, x) or to exp(log_density(z)) by the reverse KL.

    .. math:: L = E_q[\log p(z) - \log q(z)] = \log Z - KL(q \| p / Z)

    A latent that must keep to a box is drawn by a flow whose first layer is a ``Bounded``; a q that reaches where p is
    0 has the ELBO -inf. With ``ImportanceWeighted`` it proposes, and log Z gets an error bar.

    Args:
        flow: an exact, unconditional layer or chain over z; it is drawn from while training, so it should decode fast.
        base: p(ε): a Pyro distribution with ``rsample``, or a module that returns one; N(0, I) by default.
        site: the name of the latent in the model.

    Raises:
        ValueError: a conditional flow, one that gives only a bound, or lets no derivative through its draws; a base of
            another event shape.

    Source: D. J. Rezende, S. Mohamed, "Variational inference with normalizing flows", 2015.

    >>> from ppl_vae.flows import AffineCoupling
    >>> FlowPosterior(AffineCoupling(2))().shape
    torch.Size([2])
    """

    def __init__(self, flow: Layer, *, base: TorchDistribution | nn.Module | None = None, site: str = "z") -> None:
        super().__init__()
        require_density(flow, "FlowPosterior")
        if flow.context_dim is not None:
            raise ValueError(f"FlowPosterior: an unconditional flow is required, got context_dim={flow.context_dim}")
        self.flow, self.site = flow, site
        self.base = base_of(flow, base, who="FlowPosterior")
        require_path(self.base(), flow, "FlowPosterior")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Draw z, (..., *event); the data, if there are any, play no part."""
        return pyro.sample(self.site, self.distribution())

    def distribution(self) -> FlowDistribution:
        """The distribution q(z), without a batch."""
        return FlowDistribution(self.base(), self.flow)
