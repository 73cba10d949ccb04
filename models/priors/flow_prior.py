"""A prior that is a flow."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from ppl_vae.flows import FlowDistribution, Layer
from ppl_vae.flows.base import base_of
from ppl_vae.flows.flow_distribution import require_density
from ppl_vae.models.priors.base import Prior


class FlowPrior(Prior):
    r"""p(z) of z = g(u), u ~ base, with the flow learned.

    .. math:: \log p(z) = \log p_{base}(f(z)) + \log |\det J_f(z)|

    z is drawn from the guide while training, so a flow that encodes fast (``AffineCoupling``,
    ``MaskedAutoregressive``) is the one to take.

    Args:
        flow: an exact, unconditional layer or chain; its x is the model's z.
        base: p(u): a Pyro distribution, or a module that returns one; N(0, I) by default.

    Raises:
        ValueError: a conditional flow, one that gives only a bound, a base of another event shape.

    Source: X. Chen et al., "Variational lossy autoencoder", 2017.

    >>> from ppl_vae.flows import AffineCoupling
    >>> FlowPrior(AffineCoupling(8))().event_shape
    torch.Size([8])
    """

    def __init__(self, flow: Layer, *, base: TorchDistribution | nn.Module | None = None) -> None:
        super().__init__()
        require_density(flow, "FlowPrior")
        if flow.context_dim is not None:
            raise ValueError(f"FlowPrior: an unconditional flow is required, got context_dim={flow.context_dim}")
        self.flow, self.base = flow, base_of(flow, base, who="FlowPrior")

    def forward(self) -> TorchDistribution:
        """The distribution of one z."""
        return FlowDistribution(self.base(), self.flow)
