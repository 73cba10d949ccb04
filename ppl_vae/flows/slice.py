"""Numbers left away, and numbers added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppl_vae.flows.conditional_normal import ConditionalNormal
from ppl_vae.flows.drawing import call, log_prob, reparametrized_draw
from ppl_vae.flows.inverse import Inverse
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Slice(Layer):
    """z = the first numbers of x, and back: the rest is drawn; contribution = log p(rest | z). It is exact.

    Args:
        dim: D, the size of x.
        keep: the size of z, below D.
        rest: maps z, and a context if there is one, to the distribution of the rest, with event shape (D - keep,) and a
            reparametrized sample; a ``ConditionalNormal`` by default.
        context_dim: the size of a context that ``rest`` takes.

    Raises:
        ValueError: 1 <= keep < dim does not hold; in a call, a distribution of another shape, or without ``rsample``.

    Source: D. Nielsen, P. Jaini, E. Hoogeboom, O. Winther, M. Welling, "SurVAE Flows", 2020.
    """

    deterministic_decode = False

    def __init__(self, dim: int, keep: int, *, rest: nn.Module | None = None, context_dim: int | None = None) -> None:
        if not 1 <= keep < dim:
            raise ValueError(f"{type(self).__name__}: 1 <= keep < dim is required, got keep={keep}, dim={dim}")
        super().__init__(event_shape("Slice", dim), event_shape("Slice", keep), context_dim=context_dim)
        self.sizes = [keep, dim - keep]
        self.rest = ConditionalNormal(*self.sizes, context_dim=context_dim) if rest is None else rest

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        z, rest = x.split(self.sizes, -1)
        return z, log_prob(self.label, call(self.rest, z, context), rest, z.shape[:-1])

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        p_rest = call(self.rest, z, context)
        rest = reparametrized_draw(self.label, p_rest)
        density = log_prob(self.label, p_rest, rest, z.shape[:-1])
        return torch.cat([z, rest], -1), density


class Augment(Inverse):
    """z = x and drawn numbers behind it, and back: they are cut off; contribution = -log q(extra | x). A lower bound.

    Args:
        dim: D, the size of x.
        extra: how many numbers are added.
        noise: maps x, and a context if there is one, to their distribution, with event shape (extra,) and a
            reparametrized sample; a ``ConditionalNormal`` by default.
        context_dim: the size of a context that ``noise`` takes.

    Raises:
        ValueError: a size below 1.

    Source: C.-W. Huang, L. Dinh, A. Courville, "Augmented normalizing flows", 2020.
    """

    def __init__(self, dim: int, extra: int, *, noise: nn.Module | None = None, context_dim: int | None = None) -> None:
        if dim < 1 or extra < 1:
            raise ValueError(f"Augment: dim and extra must be at least 1, got dim={dim}, extra={extra}")
        super().__init__(Slice(dim + extra, dim, rest=noise, context_dim=context_dim))
