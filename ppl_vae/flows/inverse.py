"""A layer turned round."""

from __future__ import annotations

from torch import Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.flows.layer import Coded, Layer, require_layer


class Inverse(Layer):
    """The layer whose encoder is the decoder of another, and the other way round; the contribution changes its sign.

    contribution(x, z) = -contribution of ``layer`` (z, x).

    For a bijection this is its inverse, and stays exact. For a surjection it is the same surjection in the other
    direction: ``Abs()`` encodes z = |x| and is exact, ``Inverse(Abs())`` decodes x = |z| and gives a lower bound.

    Args:
        layer: what is turned round; its parameters are shared, not copied.

    Raises:
        TypeError: something else than a layer.

    >>> import math, torch
    >>> from ppl_vae.flows import Abs
    >>> _, contribution = Inverse(Abs(3)).encode(torch.ones(5, 3))
    >>> round(contribution[0].item() / math.log(2), 4)
    3.0
    """

    def __init__(self, layer: Layer) -> None:
        require_layer(layer, "Inverse")
        super().__init__(layer.shape_out, layer.shape_in, context_dim=layer.context_dim)
        self.layer = layer
        self.deterministic_encode = layer.deterministic_decode
        self.deterministic_decode = layer.deterministic_encode
        self.reparametrized_encode = layer.reparametrized_decode
        self.reparametrized_decode = layer.reparametrized_encode

    @property
    def domain(self) -> Constraint:  # type: ignore[override]
        """Where the other layer's z lives."""
        return self.layer.codomain

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        """Where the other layer's x lives."""
        return self.layer.domain

    @property
    def label(self) -> str:
        """What errors call this layer."""
        return f"Inverse({self.layer.label})" if type(self) is Inverse else type(self).__name__

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        z, contribution = self.layer._decode(x, context)
        return z, -contribution

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        x, contribution = self.layer._encode(z, context)
        return x, -contribution
