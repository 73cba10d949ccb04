"""q(z | x) of a flow: where the layer encodes x to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.distributions import PointMass
from ppl_vae.flows.domains import of_event
from ppl_vae.flows.encoding import Encoding, cut, distance, encoding_of, tolerance, version_of, with_encoding
from ppl_vae.flows.layer import Coded, Layer, event_dims


class Encoded(PointMass, TorchDistribution):
    r"""q(z | x) = δ(z - f(x)), with log q = 0: the volume is counted where the model observes x (:class:`Decoded`).

    A draw z carries the pass it comes from, so that the site of x need not encode again. Where the layer encodes by
    chance, each particle is a draw of its own, and -log q of that draw is in the contribution.

    Args:
        layer: f, a layer or a chain.
        x: (*batch, *shape_in).
        context: (..., context_dim), for a conditional layer.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = True

    def __init__(
        self, layer: Layer, x: Tensor, context: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        self.layer, self.x, self.context = layer, x, context
        self._passes: list[Coded] = []  # shared with what is expanded from it
        rank = x.dim() - event_dims(layer.shape_in)
        event = x.shape[rank:] if layer.shape_out is None else layer.shape_out
        super().__init__(x.shape[:rank], event, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Constraint:
        """Where the layer's z lives."""
        return of_event(self.layer.codomain, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Z = f(x), (*sample_shape, *batch, *event), carrying its pass."""
        shape = self._extended_shape(torch.Size(sample_shape))
        leading = shape[: len(shape) - len(self.event_shape)]
        z, contribution = self._once() if self.layer.deterministic_encode else self._anew(leading)
        passed = Encoding(self.layer, self.x, self.context, contribution.expand(leading), version_of(self.x))
        return with_encoding(z.expand(shape), passed)

    def log_prob(self, value: Tensor) -> Tensor:
        """0 where the value is what x is encoded to (or may be, by chance), -inf elsewhere; (*batch)."""
        rank = value.dim() - len(self.event_shape)
        zero = value.new_zeros(torch.broadcast_shapes(value.shape[:rank], self.batch_shape))
        passed = encoding_of(value)
        own = passed is not None and passed.is_of(self.layer, self.x, self.context)
        if own or not self.layer.deterministic_encode:
            return zero
        off = distance(self._once()[0], value, len(self.event_shape))
        return torch.where(off <= tolerance(value.dtype), zero, -torch.inf)

    @property
    def mean(self) -> Tensor:
        """f(x), (*batch, *event).

        Raises:
            NotImplementedError: the layer encodes by chance.
        """
        if not self.layer.deterministic_encode:
            raise NotImplementedError(f"Encoded: {self.layer.label} encodes by chance, and its mean is not known")
        return self._once()[0].expand(self.batch_shape + self.event_shape)

    def cut(self, value: Tensor) -> Tensor:
        """The value without its gradient, still carrying its pass."""
        return cut(value)

    def alone(self, value: Tensor, drawn: Tensor, particle: int) -> Tensor:
        """One particle; where x may be encoded to another z, it carries its own pass."""
        passed = encoding_of(value)
        if passed is None or self.layer.deterministic_encode:
            return drawn
        leading = drawn.shape[: drawn.dim() - len(self.event_shape)]
        return with_encoding(drawn, replace(passed, contribution=passed.contribution[particle].reshape(leading)))

    def first_nonfinite(self) -> str | None:
        """The name of the first layer that puts out a NaN or an infinity, or None."""
        return self.layer.first_nonfinite(self.x, self.context)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Encoded:
        """Expand the batch; one pass serves all copies, unless it is by chance."""
        new = self._get_checked_instance(Encoded, _instance)
        new.layer, new.x, new.context, new._passes = self.layer, self.x, self.context, self._passes
        super(Encoded, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _once(self) -> Coded:
        if not self._passes:
            self._passes.append(self.layer.encode(self.x, self.context))
        return self._passes[0]

    def _anew(self, leading: torch.Size) -> Coded:
        event = self.x.shape[self.x.dim() - event_dims(self.layer.shape_in) :]
        return self.layer.encode(self.x.expand(leading + event), self.context)
