"""p(x | z) of a flow: where the layer decodes z to, with the volume that this changes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.distributions import CountsVolume
from ppl_vae.flows.domains import of_event
from ppl_vae.flows.encoding import Encoding, distance, encoding_of, tolerance
from ppl_vae.flows.layer import Coded, Layer, event_dims


class Decoded(CountsVolume, TorchDistribution):
    r"""p(x | z) = δ(x - g(z)), whose log density of x is what the layer contributes.

    .. math:: \log p(x) = \log p(z) + \mathrm{contribution}(x, z), \qquad z = f(x)

    With the guide's site :class:`Encoded` the contribution is that of the guide's pass; at another z the pass is made
    here, and a z that is not f(x) has density 0.

    Args:
        layer: the flow.
        z: (*batch, *shape_out), the very value of the latent site.
        context: (..., context_dim), for a conditional layer.
        exact: is log p(z) + contribution log p(x) itself, for the p(z) at hand?

    Raises:
        ValueError: in ``log_prob``, under validation, for a z that is farther from f(x) than the root of the floating
            type's precision, relative to 1 + |z| (of a layer that draws its z: where no z decodes to its x, within as
            much); for a z that the guide has not encoded, and a layer with chance both ways.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(
        self,
        layer: Layer,
        z: Tensor,
        context: Tensor | None = None,
        *,
        exact: bool,
        validate_args: bool | None = None,
    ) -> None:
        self.layer, self.latent, self.context, self.exact = layer, z, context, exact
        rank = z.dim() - event_dims(layer.shape_out)
        event = z.shape[rank:] if layer.shape_in is None else layer.shape_in
        super().__init__(z.shape[:rank], event, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Do derivatives pass from x to z and to the layer's parameters?"""
        return self.layer.reparametrized_decode

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Constraint:
        """Where the layer's x lives."""
        return of_event(self.layer.domain, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """X = g(z), (*sample_shape, *batch, *event)."""
        return self._decode(torch.Size(sample_shape))[0]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The same without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The contribution of (x, z), (*batch) in nats; -inf where z is not an encoding of x."""
        leading = value.shape[: value.dim() - len(self.event_shape)]
        return self._contribution(value).expand(torch.broadcast_shapes(leading, self.batch_shape))

    @property
    def mean(self) -> Tensor:
        """g(z), (*batch, *event).

        Raises:
            ValueError: the layer decodes by chance.
        """
        if not self.layer.deterministic_decode:
            raise ValueError(
                f"Decoded: {self.layer.label} decodes by chance, and the mean of x given z is not known; draw instead "
                "(mean=False)"
            )
        return self._decode(torch.Size())[0]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Decoded:
        """Expand the batch."""
        new = self._get_checked_instance(Decoded, _instance)
        new.layer, new.context, new.exact = self.layer, self.context, self.exact
        new.latent = self.latent  # as it is: it carries its pass
        super(Decoded, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _decode(self, sample_shape: torch.Size) -> Coded:
        event = self.latent.shape[self.latent.dim() - event_dims(self.layer.shape_out) :]
        return self.layer.decode(self.latent.expand(sample_shape + self.batch_shape + event), self.context)

    def _contribution(self, x: Tensor) -> Tensor:
        passed = encoding_of(self.latent)
        if passed is None or not passed.is_of(self.layer, x, self.context):
            return self._at_another_z(x)
        return self._linked(passed, x) if passed.is_cut else passed.contribution

    def _linked(self, passed: Encoding, x: Tensor) -> Tensor:
        """The contribution of a pass that has lost its gradient, with that of a new pass.

        z enters with value and gradient 0: whoever asks which parameters the model stands on (they are shared with the
        guide) is told so by a layer that keeps volume, too.
        """
        z, contribution = self.layer.encode(x, self.context)
        graph = contribution + 0 * z.flatten(-event_dims(self.layer.shape_out)).sum(-1)
        return passed.contribution + (graph - graph.detach())

    def _at_another_z(self, x: Tensor) -> Tensor:
        """The contribution at a z that comes from elsewhere, found in the direction that goes without chance."""
        limit = tolerance(self.latent.dtype)
        if self.layer.deterministic_encode:
            z, contribution = self.layer.encode(x, self.context)
            off = distance(self.latent, z, event_dims(self.layer.shape_out))
            self._refuse(off, limit, off <= limit)
        elif self.layer.deterministic_decode:
            made, contribution = self.layer.decode(self.latent, self.context)
            off = distance(made, x, len(self.event_shape))
            # A z on an edge of what decodes to x may fall to the other side by rounding: one alone is no wrong guide.
            self._refuse(off, limit, (off <= limit).any())
        else:
            raise ValueError(
                f"Decoded: {self.layer.label} draws both ways, so log p(x | z) is known only at a z that it has "
                "encoded itself; draw from FlowGuide(flow) with the flow of the model"
            )
        return torch.where(off <= limit, contribution, -torch.inf)

    def _refuse(self, off: Tensor, limit: float, passes: Tensor) -> None:
        if self._validate_args and off.numel() and not bool(passes.all()):
            raise ValueError(
                "Decoded: the guide must put z where the flow of the model encodes x to, within "
                f"{limit:.1g} (1 + |z|), got a z that is off by up to {float(off.max()):.3g}; "
                "give FlowGuide the very flow of the FlowModel"
            )
