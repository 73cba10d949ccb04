"""The textbook's E-step: a posterior of its own for every datum, nothing amortized."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn


class MeanField(PyroModule):
    """q(z_n) = N(z_n; μ_n, diag(σ_n²)) with free μ_n, σ_n for each of N rows.

    What amortization gives up can be read off the difference to this guide. It knows the rows it was fitted
    to and no others; in mini-batches it must be told which rows it sees (``index``).

    Site "z" in the plate "data" (dim -1), event shape (latent_dim,). Parameters ``loc`` and ``log_scale`` (N,
    L). An optimizer with momentum also moves, a little, the rows that a batch did not hold.

    Args:
        num_data: N, the number of rows.
        latent_dim: L, the size of z.
        spread: the standard deviation of the means at the start, drawn from torch's generator.

    Raises:
        ValueError: num_data or latent_dim < 1; in a call, rows that are not those it was fitted to.

    Source: D. M. Blei, A. Kucukelbir, J. D. McAuliffe, "Variational inference: a review for statisticians",
    2017.

    >>> guide = MeanField(num_data=1500, latent_dim=8)
    >>> guide(torch.zeros(100, 64), index=torch.arange(100)).shape
    torch.Size([100, 8])
    """

    def __init__(self, *, num_data: int, latent_dim: int, spread: float = 0.1) -> None:
        super().__init__()
        if num_data < 1 or latent_dim < 1:
            raise ValueError(f"MeanField: num_data and latent_dim must be at least 1, got {num_data} and {latent_dim}")
        self.num_data = num_data
        self.latent_dim = latent_dim
        self.loc = nn.Parameter(spread * torch.randn(num_data, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_data, latent_dim))

    def forward(
        self,
        x: Tensor | None = None,
        *,
        index: Tensor | None = None,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        num_samples: int | None = None,
    ) -> Tensor:
        """Run the guide.

        Args:
            x: (B, *event) the rows, of which only the number is looked at; or None.
            index: (B,) long, which rows these are; None means all N, in order.
            y: not used: part of the common signature of guides.
            mask: not used: the posterior is fitted to what the model scores.
            num_samples: the number of rows where there is no x.

        Returns:
            z, (..., B, latent_dim).
        """
        size = num_samples if x is None else len(x)
        q_z = self.encode(size, index=index)
        with pyro.plate("data", q_z.batch_shape[0], dim=-1):
            return pyro.sample("z", q_z)

    def encode(self, x: Tensor | int | None = None, *, index: Tensor | None = None) -> TorchDistribution:
        """The distributions q(z_n) of some rows.

        Args:
            x: the rows (B, *event), or their number B, or None for whatever ``index`` says.
            index: (B,) long, which rows these are; None means all N, in order.

        Returns:
            A distribution with batch shape (B,) and event shape (latent_dim,).
        """
        size = len(x) if isinstance(x, Tensor) else x
        self._check(size, index)
        rows = slice(None) if index is None else index
        loc, log_scale = self.loc[rows], self.log_scale[rows]
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def extra_repr(self) -> str:
        """Say the number of rows and the size of z."""
        return f"num_data={self.num_data}, latent_dim={self.latent_dim}"

    def _check(self, size: int | None, index: Tensor | None) -> None:
        if index is None and size is not None and size != self.num_data:
            raise ValueError(
                f"MeanField: all {self.num_data} rows, or index (B,) saying which ones, are required, "
                f"got {size} rows: a free posterior exists only for the rows it was fitted to"
            )
        if index is None:
            return
        if index.dtype != torch.long or index.dim() != 1 or size not in (None, len(index)):
            raise ValueError(
                "MeanField: index must be (B,) long, one number a row of x, "
                f"got {tuple(index.shape)} of {index.dtype} for {size} rows"
            )
