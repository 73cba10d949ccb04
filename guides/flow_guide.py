"""The encoder of a flow as a guide: a point for each datum."""

from __future__ import annotations

import pyro
from torch import Tensor

from ppl_vae.flows import Encoded, Layer
from ppl_vae.flows.layer import require_layer
from ppl_vae.guides.amortized import AmortizedGuide


class FlowGuide(AmortizedGuide):
    """q(z | x) = δ(z - f(x)), with log q = 0: the guide of ``FlowModel(flow)``, with the very same flow.

    Site "z" in the plate "data" (dim -1). z carries its pass through the flow, so a training step makes one; what the
    pass contributes (a volume, and for layers that draw their z the -log q of the draw) is counted at the model's site
    "x". θ and φ are one here, and move in the M-step.

    Args:
        flow: the flow of the model.

    Raises:
        ValueError: a flow whose draws of z let no derivative through (learned signs in an ``Inverse(Abs(...))``); in a
            call, no x, a mask, or a context that is missing.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.

    >>> import torch
    >>> from ppl_vae.flows import AffineCoupling
    >>> guide = FlowGuide(AffineCoupling(4))
    >>> guide(torch.zeros(100, 4)).shape
    torch.Size([100, 4])
    """

    def __init__(self, flow: Layer) -> None:
        super().__init__()
        require_layer(flow, "FlowGuide")
        if not flow.reparametrized_encode:
            raise ValueError(
                "FlowGuide: a flow whose encoder lets derivatives through its draws is required, or the parameters of "
                f"these draws would get wrong gradients, got {flow.label}"
            )
        self.flow = flow

    def sample_sites(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """Encode x as z."""
        if mask is not None:
            raise ValueError("FlowGuide: a flow takes data without gaps, so mask must be None, got one")
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.encode(x, y=y))

    def encode(self, x: Tensor, *, y: Tensor | None = None) -> Encoded:
        """The distribution q(z | x): batch shape (N,), a point at f(x).

        Args:
            x: (N, *event) data.
            y: the context of a conditional flow.
        """
        flow = self.flow  # once: each access announces every parameter to Pyro's handlers
        return Encoded(flow, x, y if flow.context_dim is not None else None)
