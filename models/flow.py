"""A normalizing flow, or a SurVAE flow, as a latent variable model."""

from __future__ import annotations

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae.flows import Decoded, Layer
from ppl_vae.flows.base import base_of, keeps_to
from ppl_vae.models.model import Model


class FlowModel(Model):
    r"""z ~ p(z), x = g(z): a decoder without chance, whose site of x carries what the flow contributes.

    .. math:: \log p(x) = \log p(z) + \mathrm{contribution}(x, z), \qquad z = f(x)

    With the guide ``FlowGuide(flow)`` of the very same flow, every ELBO of Pyro and of this package *is* this log p(x)
    of an exact flow, without noise: maximum likelihood is variational EM with q(z | x) = δ(z - f(x)). Through layers
    that draw their z it is a lower bound, which ``IWAE`` tightens.

    Sites, in the plate "data" (dim -1): "z" with the event shape of the flow's z, and "x".

    Args:
        flow: a layer or a chain; conditional ones get their context as ``y``.
        base: p(z): a Pyro distribution (kept as it is, in its type and on its device), or a module that returns one,
            such as ``models.priors.MixtureOfNormals``; N(0, I) by default.

    Attributes:
        exact: is that sum log p(x) itself, and not a lower bound? It is not where the base also lives where the flow
            puts no z, as a normal does behind an ``Abs``.

    Raises:
        ValueError: a base of another event shape; in a call, a mask, a context that is missing, neither x nor
            num_samples; under validation, a guide whose z is not f(x).

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows: surjections to bridge the gap
    between VAEs and flows", 2020.

    >>> from ppl_vae.flows import AffineCoupling, Chain, Reverse
    >>> model = FlowModel(Chain([AffineCoupling(4), Reverse(4), AffineCoupling(4)]))
    >>> model(num_samples=16).shape
    torch.Size([16, 4])
    """

    def __init__(self, flow: Layer, *, base: TorchDistribution | nn.Module | None = None) -> None:
        super().__init__()
        self.flow = flow
        self.base = base_of(flow, base, who="FlowModel")
        self.exact: bool = flow.exact and keeps_to(self.base(), flow.codomain)

    def sample_sites(self, x: Tensor | None, y: Tensor | None, mask: Tensor | None, size: int) -> Tensor:
        """Draw z, decode it."""
        if mask is not None:
            raise ValueError("FlowModel: a flow takes data without gaps, so mask must be None, got one")
        with pyro.plate("data", size, dim=-1):
            z = pyro.sample("z", self.base())
            return pyro.sample("x", self.decode(z, y=y), obs=x)

    def decode(self, z: Tensor, *, y: Tensor | None = None) -> Decoded:
        """The distribution p(x | z): a point at g(z), with the flow's contribution.

        Args:
            z: (..., *shape_out).
            y: the context of a conditional flow.
        """
        flow = self.flow  # once: each access announces every parameter to Pyro's handlers
        return Decoded(flow, z, y if flow.context_dim is not None else None, exact=self.exact)
