"""The contract of every layer of a flow, and the checks that are made once for all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae import _private as private
from ppl_vae.flows.errors import NonFiniteContribution
from ppl_vae.flows.shapes import in_words

Coded = tuple[Tensor, Tensor]  # what both ways return: a value and a contribution


class Layer(nn.Module):
    """A map between data x and latents z that knows what it does to a density.

    ``log p(x) = log p(z) + contribution(x, z)``

    The contribution is the same signed quantity both ways, in nats and for each datum:

    - a bijection: log|det dz/dx|;
    - a surjection that encodes without chance (z = f(x)): log p(x | z), the density or probability of what f forgot;
    - a surjection that decodes without chance (x = g(z)): -log q(z | x);
    - a layer with chance both ways (a VAE): log p(x | z) - log q(z | x).

    Where :meth:`encode` draws, the sum is one draw of a lower bound on log p(x) with that expectation. Any leading
    dimensions (particles, enumeration, draws) may stand left of the event.

    Attributes:
        shape_in, shape_out: the event shapes of x and of z; None for vectors (..., D) of any size, which keep it.
        context_dim: the size of the context that the layer depends on; None for an unconditional layer.
        deterministic_encode, deterministic_decode: does this way go without chance?
        exact: is the sum log p(x) itself, for a p(z) that lives on ``codomain``? Else it is a lower bound.
        reparametrized_encode, reparametrized_decode: do derivatives pass from what this way draws to the parameters of
            its distribution? A sign drawn from a learned distribution does not let them through: that distribution
            wants a score-function gradient, and plain back-propagation would leave it untrained.
        domain, codomain: where x and z live.

    Implementing a new one:

    - subclass, hand the shapes to ``super().__init__``, and write :meth:`_encode` and :meth:`_decode`: they get checked
      shapes, and a context whose leading dimensions can be broadcast to those of the value;
    - set the fields in which it differs from an unconditional bijection on the whole space; no branch on the values of
      tensors, so that a training step can be traced;
    - add it to ``ppl_vae/flows/__init__.py`` and to the table in ``tests/flows/flow_table.py``: the laws run over it.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows: surjections to bridge the gap
    between VAEs and flows", 2020.
    """

    deterministic_encode: bool = True
    deterministic_decode: bool = True
    reparametrized_encode: bool = True
    reparametrized_decode: bool = True
    domain: Constraint = constraints.real
    codomain: Constraint = constraints.real

    def __init__(
        self,
        shape_in: torch.Size | None = None,
        shape_out: torch.Size | None = None,
        *,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        if context_dim is not None and context_dim < 1:
            raise ValueError(f"{type(self).__name__}: context_dim must be at least 1, or None, got {context_dim}")
        self.shape_in, self.shape_out, self.context_dim = shape_in, shape_out, context_dim

    @property
    def exact(self) -> bool:
        """Is the sum log p(x) itself, and not a lower bound?"""
        return self.deterministic_encode

    def encode(self, x: Tensor, context: Tensor | None = None) -> Coded:
        """From data to latents.

        Args:
            x: (*leading, *shape_in).
            context: (..., context_dim), leading dimensions broadcastable to those of x; for a conditional layer.

        Returns:
            z (*leading, *shape_out), and the contribution (*leading), in nats.

        Raises:
            ValueError: a wrong shape; under torch's argument validation, an x outside the domain.
            NonFiniteContribution: under validation, a result that is not finite.
        """
        validate = private.validates()
        self._check("x", x, self.shape_in, self.domain if validate else None, context)
        z, contribution = self._encode(x, context)
        if validate:
            self._check_result("encode", x, self.shape_in, z, self.shape_out, contribution)
        return z, contribution

    def decode(self, z: Tensor, context: Tensor | None = None) -> Coded:
        """From latents to data.

        Args:
            z: (*leading, *shape_out).
            context: as for :meth:`encode`.

        Returns:
            x (*leading, *shape_in), and the contribution (*leading) of this very pair (x, z), in nats.

        Raises:
            ValueError, NonFiniteContribution: as :meth:`encode`, with the codomain for the domain.
        """
        validate = private.validates()
        self._check("z", z, self.shape_out, self.codomain if validate else None, context)
        x, contribution = self._decode(z, context)
        if validate:
            self._check_result("decode", z, self.shape_out, x, self.shape_in, contribution)
        return x, contribution

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        raise NotImplementedError(f"{self.label}: a layer must define _encode(x, context)")

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        raise NotImplementedError(f"{self.label}: a layer must define _decode(z, context)")

    @property
    def label(self) -> str:
        """What errors call this layer."""
        return type(self).__name__

    def first_nonfinite(self, x: Tensor, context: Tensor | None = None) -> str | None:
        """The name of the first layer whose :meth:`encode` puts out a NaN or an infinity, or None.

        What a training loop asks when its loss is no number. It draws anew where the layer draws, and checks no domain.
        """
        with torch.no_grad():
            return self._first_nonfinite(x, context)[0]

    def _first_nonfinite(self, x: Tensor, context: Tensor | None) -> tuple[str | None, Tensor]:
        try:
            z, contribution = self._encode(x, context)
        except NonFiniteContribution as error:  # of a layer inside this one, under validation
            return f"{self.label}: {error.layer}", x
        return (None if _finite(z, contribution) else self.label), z

    def _leading(self, value: Tensor, shape: torch.Size | None) -> torch.Size:
        return value.shape[: value.dim() - event_dims(shape)]

    def _check(
        self, name: str, value: Tensor, shape: torch.Size | None, where: Constraint | None, context: Tensor | None
    ) -> None:
        dims = event_dims(shape)
        if value.dim() < dims or (shape is not None and value.shape[value.dim() - dims :] != shape):
            required = "(..., D)" if shape is None else in_words(shape)
            raise ValueError(f"{self.label}: {name} must be {required}, got {tuple(value.shape)}")
        if context is not None or self.context_dim is not None:
            self._check_context(context, value.shape[: value.dim() - dims])
        if where is not None and not bool(where.check(value).all()):
            low, high = value.detach().aminmax()
            raise ValueError(f"{self.label}: {name} must lie in {where}, got values from {low:g} to {high:g}")

    def _check_context(self, context: Tensor | None, leading: torch.Size) -> None:
        if context is None:
            raise ValueError(f"{self.label}: a context (..., {self.context_dim}) is required, got None")
        if self.context_dim is None:
            raise ValueError(f"{self.label}: it is unconditional and takes no context, got {tuple(context.shape)}")
        if context.dim() < 1 or context.shape[-1] != self.context_dim or not _fits(context.shape[:-1], leading):
            raise ValueError(
                f"{self.label}: the context must be {in_words((*leading, self.context_dim))} or broadcast to it, "
                f"got {tuple(context.shape)}"
            )

    def _check_result(
        self,
        way: str,
        given: Tensor,
        shape_given: torch.Size | None,
        made: Tensor,
        shape_made: torch.Size | None,
        contribution: Tensor,
    ) -> None:
        leading = self._leading(given, shape_given)
        event = given.shape[len(leading) :] if shape_made is None else shape_made
        if made.shape != leading + event or contribution.shape != leading:
            raise ValueError(
                f"{self.label}: {way} must return {tuple(leading + event)} and a contribution {tuple(leading)}, "
                f"got {tuple(made.shape)} and {tuple(contribution.shape)}"
            )
        if not _finite(made, contribution):
            raise NonFiniteContribution(self.label, way)


def require_layer(flow: object, who: str) -> None:
    """Raise TypeError unless this is a layer."""
    if not isinstance(flow, Layer):
        raise TypeError(
            f"{who}: a layer of ppl_vae.flows is required (several in a Chain([...]), zuko's by from_zuko), got "
            f"{type(flow).__name__}"
        )


def event_dims(shape: torch.Size | None) -> int:
    """How many dimensions an event has; None stands for a vector."""
    return 1 if shape is None else len(shape)


def _finite(value: Tensor, contribution: Tensor) -> bool:
    return bool(value.isfinite().all() & contribution.isfinite().all())


def _fits(context: torch.Size, leading: torch.Size) -> bool:
    """Can these leading dimensions be broadcast to those of the value, without making them more?"""
    if len(context) > len(leading):
        return False
    return all(size in (1, want) for size, want in zip(reversed(context), reversed(leading), strict=False))
