"""What one call of an evaluation holds in memory."""

from __future__ import annotations

import resource
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import VariationalEM


def mebibytes_of_encoding(rows: int) -> float:
    """The peak of ``encode`` of two latents in a row, over images of 784 pixels, above what the process held before."""
    decoder, first, second = nn.Linear(4, 784), nn.Linear(784, 8), nn.Linear(4, 8)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(top, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> Any:
        pyro.module("first", first)
        pyro.module("second", second)
        with pyro.plate("data", len(x)):
            loc, log_scale = first(x).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc, log_scale = second(z).chunk(2, -1)
            pyro.sample("top", dist.Normal(loc, log_scale.exp()).to_event(1))

    x = torch.zeros(rows, 784)
    fit = VariationalEM(model, guide, compile=False).fit(x, steps=2, batch_size=50, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit.encode(x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
