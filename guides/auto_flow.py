"""A flow over all latents of a model at once, as an autoguide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor, nn
from torch.distributions import biject_to

from ppl_vae.flows import AffineCoupling, Alternate, Chain, FlowDistribution, Half, Whitening
from ppl_vae.flows.base import base_of


class AutoFlow(AutoContinuous):
    r"""q(u): u = m + C g(ε), ε ~ N(0, I), over the unconstrained latents u of a model, side by side.

    m and C are those of a normal that is already near, and stay; g is a chain of affine couplings that begins near the
    identity. So the guide begins as that normal and learns in what the posterior differs from it: tails, funnels,
    curved ridges. Drawing and scoring both take one pass.

    Args:
        model: the model, as for every autoguide of Pyro.
        loc: m, (D,); by default a value of the prior that the autoguide finds.
        scale_tril: C, (D, D), lower triangular; by default 0.1 I.
        num_layers: couplings; two neighbours move each number once.
        hidden: the widths of their networks; by default two of D, but at least 32 and at most 128.

    Raises:
        ValueError: in the first call, a model with fewer than two latent numbers, which a coupling cannot split; loc or
            scale_tril of another size.

    Sources: L. Dinh, J. Sohl-Dickstein, S. Bengio, "Density estimation using Real NVP", 2017; A. Agrawal, D. Sheldon,
    J. Domke, "Advances in black-box VI: normalizing flows, importance weighting, and optimization", 2020.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        loc: Tensor | None = None,
        scale_tril: Tensor | None = None,
        num_layers: int = 8,
        hidden: Sequence[int] | None = None,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"AutoFlow: num_layers must be at least 1, got {num_layers}")
        super().__init__(model)
        self._given, self.num_layers, self.hidden = (loc, scale_tril), num_layers, hidden

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        dim, start = self.latent_dim, self._found()
        if dim < 2:
            raise ValueError("AutoFlow: a model with at least two latent numbers is required, got one; AutoNormal fits")
        loc, scale_tril = self._given
        loc = start if loc is None else loc.to(start)
        scale_tril = 0.1 * torch.eye(dim).to(start) if scale_tril is None else scale_tril.to(start)
        if len(loc) != dim:
            raise ValueError(f"AutoFlow: a loc of all {dim} latent numbers is required, got {len(loc)}")
        width = min(max(32, dim), 128)
        couplings = [
            AffineCoupling(dim, mask=_mask(i), hidden=self.hidden or (width, width), activation=nn.SiLU)
            for i in range(self.num_layers)
        ]
        self.flow = Chain([Whitening(loc, scale_tril), *couplings]).to(start)
        self.base = base_of(self.flow, None, who="AutoFlow")
        self._given = (None, None)

    def _found(self) -> Tensor:
        """The latents of the first run as u, (D,)."""
        sites = [site for _, site in self.prototype_trace.iter_stochastic_nodes()]
        return torch.cat([biject_to(s["fn"].support).inv(s["value"].detach()).reshape(-1) for s in sites])

    def get_posterior(self, *args: Any, **kwargs: Any) -> FlowDistribution:
        """The distribution of u, without a batch."""
        return FlowDistribution(self.base(), self.flow)


def _mask(i: int) -> Half | Alternate:
    """Which numbers coupling i keeps: halves, then every other one, each way round."""
    return (Half if i // 2 % 2 else Alternate)(swap=bool(i % 2))
