"""Networks that do more than multiply: buffers that move, noise of their own, kernels of other kinds."""

from __future__ import annotations

from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from .base import DIM, LATENT, Problem, row, vae


def batch_norm() -> Problem:
    return vae(
        Trace_ELBO(),
        encoder=nn.Sequential(nn.Linear(DIM, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2 * LATENT)),
        decoder=nn.Sequential(nn.Linear(LATENT, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, DIM)),
    )


def dropout() -> Problem:
    return vae(
        Trace_ELBO(),
        encoder=nn.Sequential(nn.Linear(DIM, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 2 * LATENT)),
        decoder=nn.Sequential(nn.Linear(LATENT, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, DIM)),
    )


def evaluation_mode() -> Problem:
    """The same layers, fixed."""
    encoder = nn.Sequential(nn.BatchNorm1d(DIM), nn.Dropout(0.3), nn.Linear(DIM, 2 * LATENT)).eval()
    return vae(Trace_ELBO(), encoder=encoder)


def layer_norm() -> Problem:
    encoder = nn.Sequential(nn.Linear(DIM, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2 * LATENT))
    return vae(Trace_ELBO(), encoder=encoder)


def convolutions() -> Problem:
    encoder = nn.Sequential(
        nn.Unflatten(-1, (1, DIM)), nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2 * LATENT)
    )
    decoder = nn.Sequential(nn.Unflatten(-1, (LATENT, 1)), nn.ConvTranspose1d(LATENT, 1, DIM), nn.Flatten())
    return vae(Trace_ELBO(), encoder=encoder, decoder=decoder)


class Recurrent(nn.Module):
    """Reads a row entry by entry."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.head = kind(1, 5, batch_first=True), nn.Linear(5, 2 * LATENT)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.unsqueeze(-1))[0][:, -1])


def attention() -> Problem:
    layer = nn.TransformerEncoderLayer(4, nhead=2, dim_feedforward=5, dropout=0.0, batch_first=True)
    encoder = nn.Sequential(nn.Unflatten(-1, (DIM, 1)), nn.Linear(1, 4), layer, nn.Flatten(), nn.Linear(16, 2 * LATENT))
    return vae(Trace_ELBO(), encoder=encoder)


def spectral_norm() -> Problem:
    """A parametrization that moves a buffer at each call in training mode."""
    encoder = nn.utils.parametrizations.spectral_norm(nn.Linear(DIM, 2 * LATENT))
    return vae(Trace_ELBO(), encoder=encoder)


ROWS_OF_NETWORKS = [
    row("BatchNorm in both networks", batch_norm),
    row("Dropout in both networks", dropout),
    row("BatchNorm and Dropout in evaluation mode", evaluation_mode),
    row("LayerNorm", layer_norm),
    row("Conv1d and ConvTranspose1d", convolutions),
    row("GRU", lambda: vae(Trace_ELBO(), encoder=Recurrent(nn.GRU))),
    row("LSTM", lambda: vae(Trace_ELBO(), encoder=Recurrent(nn.LSTM)), falls_back="LSTM"),
    row("Transformer layer", attention),
    row("spectral norm", spectral_norm),
]
