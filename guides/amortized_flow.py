"""A network from x to a flow: q(z | x) beyond the normal."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.flows import FlowDistribution, Layer
from ppl_vae.flows.base import NormalBase
from ppl_vae.flows.flow_distribution import require_density, require_path
from ppl_vae.flows.layer import require_layer
from ppl_vae.guides.amortized import AmortizedGuide
from ppl_vae.nn import fill_unobserved


class AmortizedFlow(AmortizedGuide):
    r"""q_φ(z | x): z = g(ε; c(x)), ε ~ N(0, I), with a conditional flow g and its context c(x) from one network.

    .. math:: \log q(z \mid x) = \log N(ε; 0, I) - \log |\det \partial g / \partial ε|

    Site "z" in the plate "data" (dim -1), event shape (latent_dim,); reparametrized, and the density of a draw comes
    from the pass that made it. z is only drawn while training, so a flow that decodes fast
    (``InverseAutoregressive``, ``AffineCoupling``) is the one to take. ``Chain([ElementwiseAffine(L, context_dim=C),
    ...])`` holds the normal q(z | x) of ``AmortizedNormal``.

    Args:
        encoder: maps x (N, *event) to the context (N, flow.context_dim).
        flow: a conditional, exact layer or chain over z.
        latent_dim: L, the size of z.

    Raises:
        ValueError: a flow that is unconditional, of another size, gives only a bound, or lets no derivative through its
            draws; in a call, an encoder output of another shape, a mask that does not fit x, or no x.

    Source: D. J. Rezende, S. Mohamed, "Variational inference with normalizing flows", 2015.

    >>> import torch
    >>> from ppl_vae.flows import AffineCoupling
    >>> from ppl_vae.nn import MLP
    >>> guide = AmortizedFlow(MLP(64, 16), AffineCoupling(8, context_dim=16), latent_dim=8)
    >>> guide.encode(torch.zeros(100, 64)).rsample().shape
    torch.Size([100, 8])
    """

    def __init__(self, encoder: nn.Module, flow: Layer, *, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"AmortizedFlow: latent_dim must be at least 1, got {latent_dim}")
        _check(flow, latent_dim)
        self.encoder, self.flow, self.latent_dim = encoder, flow, latent_dim
        self.base = NormalBase(torch.Size((latent_dim,)), like=flow)
        require_path(self.base(), flow, "AmortizedFlow")

    def sample_sites(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """Draw z."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.encode(x, mask=mask))

    def encode(self, x: Tensor, *, mask: Tensor | None = None) -> FlowDistribution:
        """The distribution q(z | x).

        Args:
            x: (N, *event) data.
            mask: as in a call.

        Returns:
            A distribution with batch shape (N,) and event shape (latent_dim,).
        """
        context = self.encoder(fill_unobserved(x, mask, who="AmortizedFlow"))
        flow = self.flow  # once: each access announces every parameter to Pyro's handlers
        if context.shape != (len(x), flow.context_dim):
            raise ValueError(
                f"AmortizedFlow: the encoder must return (..., {flow.context_dim}), the context of the flow, "
                f"got {tuple(context.shape)}"
            )
        return FlowDistribution(self.base(), flow, context)

    def extra_repr(self) -> str:
        """Say the size of z."""
        return f"latent_dim={self.latent_dim}"


def _check(flow: Layer, latent_dim: int) -> None:
    require_layer(flow, "AmortizedFlow")
    if flow.context_dim is None:
        raise ValueError(f"AmortizedFlow: a conditional flow (context_dim=) is required, got {flow.label} without one")
    if {flow.shape_in, flow.shape_out} - {None, (latent_dim,)}:
        raise ValueError(
            f"AmortizedFlow: a flow over ({latent_dim},) is required for latent_dim={latent_dim}, got one from "
            f"{flow.shape_out} to {flow.shape_in}"
        )
    require_density(flow, "AmortizedFlow")
