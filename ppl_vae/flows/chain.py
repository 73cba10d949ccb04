"""Layers one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from ppl_vae import _private as private
from ppl_vae.flows.domains import within
from ppl_vae.flows.errors import NonFiniteContribution
from ppl_vae.flows.layer import Coded, Layer, event_dims, require_layer


class Chain(Layer):
    """Layers one after another: x passes through the first first, z comes out of the last; contributions add up.

    log p(x) = log p(z) + sum_i contribution_i. The context, if there is one, goes to every conditional layer.

    Args:
        layers: at least one; a chain may stand in a chain.

    Raises:
        TypeError: something else than layers.
        ValueError: no layer; neighbours whose shapes do not meet; conditional layers that want contexts of different
            sizes.

    >>> from ppl_vae.flows import AffineCoupling, Reverse
    >>> flow = Chain([AffineCoupling(4), Reverse(4), AffineCoupling(4)])
    >>> z, contribution = flow.encode(torch.zeros(5, 100, 4))
    >>> z.shape, contribution.shape, flow.exact
    (torch.Size([5, 100, 4]), torch.Size([5, 100]), True)
    """

    layers: Sequence[Layer]

    def __init__(self, layers: Iterable[Layer]) -> None:
        if isinstance(layers, Layer):
            raise TypeError(f"Chain: a list of layers is required, got one {layers.label} without a list")
        layers = list(layers)
        for i, layer in enumerate(layers):
            require_layer(layer, f"Chain: layer {i}")
        if not layers:
            raise ValueError("Chain: at least one layer is required, got none")
        _check_neighbours(layers)
        shapes_in, shapes_out = [layer.shape_in for layer in layers], [layer.shape_out for layer in layers]
        super().__init__(_first(shapes_in), _first(shapes_out[::-1]), context_dim=_common_context(layers))
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.deterministic_encode = all(layer.deterministic_encode for layer in layers)
        self.deterministic_decode = all(layer.deterministic_decode for layer in layers)
        self.reparametrized_encode = all(layer.reparametrized_encode for layer in layers)
        self.reparametrized_decode = all(layer.reparametrized_decode for layer in layers)

    @property
    def exact(self) -> bool:
        """Is every layer exact, and do the z of each live where the layer after it puts them?

        ``Chain([Abs(), AffineCoupling(2)])`` is only a bound: the coupling also decodes to negative z, from which x may
        come as well.
        """
        meets = all(within(second.domain, first.codomain) for first, second in pairwise(self.layers))
        return meets and all(layer.exact for layer in self.layers)

    @property
    def domain(self) -> Constraint:  # type: ignore[override]
        """That of the first layer."""
        return self.layers[0].domain

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        """That of the last layer."""
        return self.layers[-1].codomain

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return self._run("encode", enumerate(self.layers), x, context)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return self._run("decode", reversed(list(enumerate(self.layers))), z, context)

    def _run(self, way: str, numbered: Iterable[tuple[int, Layer]], value: Tensor, context: Tensor | None) -> Coded:
        total: Tensor | None = None
        # Without validation the layers are called below their checks: shapes have met when the chain was made.
        method = way if private.validates() else f"_{way}"
        for i, layer in numbered:
            try:
                value, contribution = getattr(layer, method)(value, _given(layer, context))
            except NonFiniteContribution as error:
                raise NonFiniteContribution(_path(i, error.layer), error.way) from None
            total = contribution if total is None else total + contribution
        assert total is not None
        return value, total

    def _first_nonfinite(self, x: Tensor, context: Tensor | None) -> tuple[str | None, Tensor]:
        for i, layer in enumerate(self.layers):
            name, x = layer._first_nonfinite(x, _given(layer, context))
            if name is not None:
                return _path(i, name), x
        return None, x


def _path(i: int, name: str) -> str:
    """``layers.2 (Planar)`` for a layer of this chain, ``layers.2.layers.0 (Planar)`` for one in a chain in it."""
    return f"layers.{i}.{name}" if name.startswith("layers.") else f"layers.{i} ({name})"


def _given(layer: Layer, context: Tensor | None) -> Tensor | None:
    return None if layer.context_dim is None else context


def _first(shapes: Iterable[torch.Size | None]) -> torch.Size | None:
    """The first shape that is known: layers of any shape keep it."""
    return next((shape for shape in shapes if shape is not None), None)


def _check_neighbours(layers: Sequence[Layer]) -> None:
    """A layer of any shape stands for vectors, and hands on what the layer before it puts out."""
    known: tuple[int, Layer] | None = None
    for i, layer in enumerate(layers):
        before = None if known is None else known[1].shape_out
        wanted = layer.shape_in
        meets = before is None or (event_dims(before) == 1 if wanted is None else before == wanted)
        if not meets and known is not None and before is not None:
            required = "vectors (D,)" if wanted is None else tuple(wanted)
            raise ValueError(
                f"Chain: neighbours must meet, but layer {known[0]} ({known[1].label}) puts out {tuple(before)} and "
                f"layer {i} ({layer.label}) takes {required}"
            )
        if wanted is None and layer.shape_out is None:
            continue
        known = (i, layer)
    for (i, first), (j, second) in pairwise(enumerate(layers)):
        if first.shape_out is None and second.shape_in is not None and event_dims(second.shape_in) != 1:
            raise ValueError(
                f"Chain: neighbours must meet, but layer {i} ({first.label}) puts out vectors (D,) and "
                f"layer {j} ({second.label}) takes {tuple(second.shape_in)}"
            )


def _common_context(layers: Sequence[Layer]) -> int | None:
    wanted = {layer.context_dim: f"layer {i} ({layer.label})" for i, layer in enumerate(layers)}
    wanted.pop(None, None)
    if len(wanted) > 1:
        sizes = ", ".join(f"{context_dim} by {who}" for context_dim, who in wanted.items())
        raise ValueError(f"Chain: all conditional layers must take the same context_dim, got {sizes}")
    return next(iter(wanted), None)
