"""What is kept of a run: checkpoints of long histories, and the size of a run folder."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from ppl_vae import VariationalEM
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.result import Fit
from wall_figures.rows import pair


def seconds_of_a_checkpoint(rows: int) -> float:
    """A save of the state of a full-batch fit of so many steps, each of which is an epoch with a row of its own."""
    fit = VariationalEM(*pair(), compile=False).fit(torch.zeros(4, 2), steps=2, progress=False)
    lengthen(fit, rows)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        fit.save(Path(folder) / "run")
        return time.perf_counter() - started


def lengthen(fit: Fit, rows: int) -> None:
    """Give the fit the history of a longer run, by its own state: that is what a checkpoint of one would hold."""
    history = fit.trainer.history
    row = {"epoch": 0, "step": 1, "lr": 1e-3, "objective": -1.25, "elbo": -1.5, "reconstruction": -1.0, "kl": 0.5}
    table = [{**row, "epoch": i, "step": i + 1} for i in range(rows)]
    history.load_state({"rows": table, "pending": None, "sizes": []})


def bytes_of_a_run_folder() -> float:
    """A saved fit of a small VAE by Adam, over the bytes of its parameters."""
    model = VAE(MLP(8, 64, hidden=(128, 128)), latent_dim=8, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(64, 16, hidden=(128, 128)), latent_dim=8)
    fit = VariationalEM(model, guide, compile=False).fit(torch.zeros(8, 64), steps=2, progress=False)
    weights = sum(leaf.numel() * leaf.element_size() for leaf in (*model.parameters(), *guide.parameters()))
    with tempfile.TemporaryDirectory() as folder:
        fit.save(Path(folder) / "run")
        return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / weights
