"""A shift and a matrix that stay what they are."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.flows.layer import Coded, Layer


class Whitening(Layer):
    """z = C^-1 (x - m), with m and C given and not learned; contribution = -log det C.

    What x ~ N(m, C C^T) becomes is standard normal, so that the layers behind it meet numbers of one size.

    Args:
        loc: m, (D,).
        scale_tril: C, (D, D), lower triangular with a positive diagonal.

    Raises:
        ValueError: shapes that do not fit, or a diagonal that is not positive.

    >>> layer = Whitening(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    >>> layer.encode(torch.tensor([3.0, 4.0]))
    (tensor([1., 1.]), tensor(-0.6931))
    """

    loc: Tensor
    scale_tril: Tensor

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        if loc.dim() != 1 or scale_tril.shape != (len(loc), len(loc)):
            raise ValueError(
                f"Whitening: a loc (D,) and a scale_tril (D, D) are required, got {tuple(loc.shape)} and "
                f"{tuple(scale_tril.shape)}"
            )
        if not bool((scale_tril.diagonal() > 0).all()):
            raise ValueError("Whitening: a scale_tril with a positive diagonal is required, got one that has others")
        super().__init__(loc.shape, loc.shape)
        self.register_buffer("loc", loc.detach().clone())
        self.register_buffer("scale_tril", scale_tril.detach().tril())

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        # Columns, in one matrix: a solver with as many batches as there are data would be slow.
        columns = (x - self.loc).reshape(-1, len(self.loc)).mT
        z = torch.linalg.solve_triangular(self.scale_tril, columns, upper=False).mT.reshape(x.shape)
        return z, self._contribution(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return self.loc + z @ self.scale_tril.mT, self._contribution(z)

    def _contribution(self, value: Tensor) -> Tensor:
        return -self.scale_tril.diagonal().log().sum().expand(value.shape[:-1])
