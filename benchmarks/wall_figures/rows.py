"""The stream of rows: what a DataLoader reads, and what a step costs where the data are many."""

from __future__ import annotations

import time
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ppl_vae import Callback, VariationalEM


class Counting(Dataset[Any]):
    """Rows of zeros that count how often one is read."""

    def __init__(self, size: int) -> None:
        self.size, self.read = size, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Tensor:
        self.read += 1
        return torch.zeros(2)


class EachStep(Callback):
    """Watches every step and does nothing."""

    def on_step(self, run: Any, report: Tensor) -> None:
        """Only looks."""


def pair(width: int = 2) -> tuple[Any, Any]:
    """A linear decoder and a linear encoder of one latent."""
    decoder, encoder = nn.Linear(1, width), nn.Linear(width, 1)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return model, guide


def read_over_needed(batches: int, callback: bool) -> float:
    """Rows that an epoch's fit reads from a DataLoader, over the rows that it needs."""
    rows = Counting(2 * batches)
    watching = [EachStep()] if callback else []
    em = VariationalEM(*pair(), compile=False)
    em.fit(DataLoader(rows, batch_size=2, shuffle=True), epochs=1, callbacks=watching, progress=False)
    return rows.read / rows.size


def milliseconds_a_step(num_data: int, callback: bool, compile: bool, steps: int) -> float:
    """Wall time of a step on 64 of ``num_data`` rows in memory, in the middle of the first epoch."""
    watching = [EachStep()] if callback else []
    em = VariationalEM(*pair(), compile=compile)
    x = torch.zeros(num_data, 2)
    fit = em.fit(x, steps=50, batch_size=64, callbacks=watching, progress=False)
    started = time.perf_counter()
    fit.resume(steps=steps, progress=False)
    return 1000 * (time.perf_counter() - started) / steps
