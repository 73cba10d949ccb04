"""A distribution pushed through a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.distributions.of_noise import OfNoise
from ppl_vae.distributions.widened import widened
from ppl_vae.flows.base import keeps_to
from ppl_vae.flows.domains import of_event
from ppl_vae.flows.encoding import Carried, version_of
from ppl_vae.flows.layer import Coded, Layer, event_dims, require_layer


class FlowDistribution(TorchDistribution, OfNoise):
    r"""The distribution of x = g(z), z ~ base.

    .. math:: \log p(x) = \log p_{base}(f(x)) + \mathrm{contribution}(x, f(x))

    The density of a draw comes from the pass that made it; that of another value takes a pass of its own.

    Args:
        base: p(z), a Pyro distribution with the event shape of the flow's z.
        flow: an exact layer or chain: a bijection, or a surjection that encodes without chance.
        context: (..., context_dim), for a conditional flow; its leading dimensions are in the batch.

    Raises:
        ValueError: the flow is not exact (its density would only be a bound); a base of another event shape; under
            validation, a base that lives outside the flow's codomain; ``rsample`` of a base or flow that lets no
            derivative through.

    >>> import pyro.distributions as dist
    >>> from ppl_vae.flows import AffineCoupling
    >>> p = FlowDistribution(dist.Normal(torch.zeros(4), 1.0).to_event(1), AffineCoupling(4)).expand([100])
    >>> x = p.rsample()
    >>> x.shape, p.log_prob(x).shape
    (torch.Size([100, 4]), torch.Size([100]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(
        self,
        base: TorchDistribution,
        flow: Layer,
        context: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        require_density(flow, "FlowDistribution")
        _check_base(base, flow)
        leading = torch.Size() if context is None else context.shape[:-1]
        batch = torch.broadcast_shapes(base.batch_shape, leading)
        self.base = base if batch == base.batch_shape else base.expand(batch)
        self.flow, self.context = flow, context
        self._key = object()  # a draw knows by it whose draw it is, also after an expansion
        event = base.event_shape if flow.shape_in is None else flow.shape_in
        super().__init__(batch, event, validate_args=validate_args)
        if self._validate_args and not keeps_to(base, flow.codomain):
            raise ValueError(
                f"FlowDistribution: the base must live in {flow.codomain}, where {flow.label} puts z, got "
                f"{type(base).__name__}"
            )

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Do derivatives pass from a draw to the parameters of the base and of the flow?"""
        return bool(self.base.has_rsample) and self.flow.reparametrized_decode

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Constraint:
        """Where the flow's x lives."""
        return of_event(self.flow.domain, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """X = g(z), (*sample_shape, *batch, *event), with derivatives."""
        if not self.has_rsample:
            raise ValueError(
                f"FlowDistribution: a reparametrized draw needs a base and a flow that let derivatives through, got "
                f"{type(self.base).__name__} and {self.flow.label}"
            )
        return self._draw(self.base.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The same without."""
        with torch.no_grad():
            return self._draw(self.base.sample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x), (*batch) in nats."""
        z, contribution = self._pass_of(value)
        return self.base.log_prob(z) + contribution

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """Expand the batch."""
        new = self._get_checked_instance(FlowDistribution, _instance)
        batch_shape = torch.Size(batch_shape)
        new.base = self.base.expand(batch_shape)
        new.flow, new.context, new._key = self.flow, self.context, self._key
        super(FlowDistribution, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def widened(self, factor: float) -> FlowDistribution | None:
        """The same flow of a base with ``factor`` times the spread; None where the base has no such twin."""
        base = widened(self.base, factor)
        if base is None:
            return None
        twin = FlowDistribution(base, self.flow, self.context, validate_args=False)
        twin._key = self._key  # flow and context are the same, so the pass that made a draw serves both
        return twin

    @property
    def takes_noise(self) -> bool:
        """Is the base normal, with independent entries, and does the flow let derivatives through?"""
        return type(_normal(self.base)) in _NORMALS and self.flow.reparametrized_decode

    def place(self, noise: Tensor) -> Tensor:
        """X = g(m + s noise), (..., *batch, *event), for a base N(m, s²)."""
        base = _normal(self.base)
        return self._draw(base.loc + base.scale * noise)

    def _draw(self, z: Tensor) -> Tensor:
        x, contribution = self.flow.decode(z, self.context)
        x._decoding = _Decoding(self._key, z, contribution, self._versions(x))  # type: ignore[attr-defined]
        return x

    def _pass_of(self, value: Tensor) -> Coded:
        """The pass that made this value, while it still holds and has the derivatives that are asked for."""
        made = getattr(value, "_decoding", None)
        if isinstance(made, _Decoding) and made.key is self._key and made.versions == self._versions(value):
            return made.z, made.contribution
        return self.flow.encode(self._beside_context(value), self.context)

    def _beside_context(self, value: Tensor) -> Tensor:
        """The value once for each context, as a distribution with a batch scores one value."""
        if self.context is None:
            return value
        rank = value.dim() - len(self.event_shape)
        leading = torch.broadcast_shapes(value.shape[:rank], self.context.shape[:-1])
        return value.expand(leading + value.shape[rank:])

    def _versions(self, value: Tensor) -> tuple[int | None, ...]:
        """What a pass without derivatives hangs on; with them, only what autograd does not watch."""
        if torch.is_grad_enabled():
            return (version_of(value),)
        return (version_of(value), None, *map(version_of, self.flow.parameters()))


@dataclass(frozen=True)
class _Decoding(Carried):
    """The pass that a draw comes from, carried by this very tensor."""

    key: object
    z: Tensor
    contribution: Tensor
    versions: tuple[int | None, ...]


def require_density(flow: Layer, who: str) -> None:
    """Raise ValueError unless log p(x) of this flow is known, and not only a bound on it."""
    require_layer(flow, who)
    if not flow.exact:
        raise ValueError(
            f"{who}: an exact flow is required (a bijection, or a surjection that encodes without chance and whose z "
            f"the next layer keeps in place), got {flow.label}, which gives only a lower bound on the density"
        )


def require_path(base: TorchDistribution, flow: Layer, who: str) -> None:
    """Raise ValueError unless derivatives pass through draws of the base and what the flow decodes them to."""
    if not (base.has_rsample and flow.reparametrized_decode):
        raise ValueError(
            f"{who}: a base and a flow that let derivatives through their draws are required, got "
            f"{type(base).__name__} and {flow.label}"
        )


_NORMALS = (dist.Normal, torch.distributions.Normal)


def _normal(base: Any) -> Any:
    """What stands inside ``to_event``."""
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    return base


def _check_base(base: TorchDistribution, flow: Layer) -> None:
    fits = len(base.event_shape) == 1 if flow.shape_out is None else base.event_shape == flow.shape_out
    if not fits:
        required = "(D,)" if flow.shape_out is None else tuple(flow.shape_out)
        raise ValueError(
            f"FlowDistribution: the base must have the event shape {required} of the flow's z, got "
            f"{tuple(base.event_shape)}; declare the event, as in .to_event({event_dims(flow.shape_out)})"
        )
