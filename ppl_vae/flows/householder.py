"""An orthogonal matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppl_vae import _private as private
from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class Householder(Layer):
    """z = H_K ... H_1 x, with reflections H_k = I - 2 v_k v_kᵀ / |v_k|²; contribution = 0.

    Args:
        dim: D, the size of x and of z.
        reflections: K; D of them reach every orthogonal matrix.

    Raises:
        ValueError: a dim or a number of reflections below 1; under torch's argument validation, a v_k of length 0,
            which reflects in no direction.

    Source: J. M. Tomczak, M. Welling, "Improving variational auto-encoders using Householder flow", 2016.
    """

    def __init__(self, dim: int, *, reflections: int = 2) -> None:
        shape = event_shape("Householder", dim)
        if reflections < 1:
            raise ValueError(f"Householder: reflections must be at least 1, got {reflections}")
        super().__init__(shape, shape)
        self.vectors = nn.Parameter(torch.randn(reflections, dim))

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return x @ self._matrix().mT, x.new_zeros(x.shape[:-1])

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        return z @ self._matrix(), z.new_zeros(z.shape[:-1])

    def _matrix(self) -> Tensor:
        lengths = self.vectors.norm(dim=-1, keepdim=True)
        if private.validates() and not bool((lengths > 0).all()):
            raise ValueError("Householder: vectors of a length above 0 are required, got one of length 0")
        matrix = torch.eye(self.vectors.shape[-1], dtype=self.vectors.dtype, device=self.vectors.device)
        for v in self.vectors / lengths:
            matrix = matrix - 2 * torch.outer(v, v @ matrix)
        return matrix
