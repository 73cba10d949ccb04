"""An invertible matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.flows.layer import Coded, Layer
from ppl_vae.flows.shapes import event_shape


class LULinear(Layer):
    """z = L U x + b, with L unit lower and U upper triangular and a positive diagonal; contribution = log det U.

    It starts as the identity, and cannot become singular. No rows are exchanged: put a ``Permutation`` before it to
    reach matrices that have no such factors.

    Args:
        dim: D, the size of x and of z.

    Raises:
        ValueError: a dim below 1.

    Source: J. B. Oliva et al., "Transformation autoregressive networks", 2018.
    """

    def __init__(self, dim: int) -> None:
        shape = event_shape("LULinear", dim)
        super().__init__(shape, shape)
        self.entries = nn.Parameter(torch.zeros(dim, dim))  # of L below the diagonal, of U above it
        self.log_diagonal = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        lower, upper = self._factors()
        return F.linear(x, lower @ upper, self.bias), self._contribution(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        lower, upper = self._factors()
        # Columns, in one matrix: a solver with as many batches as there are data would be slow.
        columns = (z - self.bias).reshape(-1, len(self.bias)).mT
        middle = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, middle, upper=True).mT.reshape(z.shape), self._contribution(z)

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.entries.tril(-1) + torch.eye(len(self.bias), dtype=self.bias.dtype, device=self.bias.device)
        return lower, self.entries.triu(1) + torch.diag(self.log_diagonal.exp())

    def _contribution(self, value: Tensor) -> Tensor:
        return self.log_diagonal.sum().expand(value.shape[:-1])
