"""A fresh process: what a first fit takes, and what is imported for it."""

from __future__ import annotations

import sys
import time


def seconds_of_a_first_fit() -> float:
    """From the first import to the end of a short fit of a small pair."""
    started = time.perf_counter()
    import pyro
    import pyro.distributions as dist
    import torch

    import ppl_vae

    def model(x: torch.Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + loc, 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        scale = pyro.param("scale", torch.ones(4), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale).to_event(1))

    ppl_vae.fit(model, guide, torch.zeros(20, 4), steps=50, progress=False)
    return time.perf_counter() - started


def imports_the_compiler() -> float:
    """1 if a short fit, its evidence and a look at it have imported TorchInductor, else 0."""
    seconds_of_a_first_fit()
    return float("torch._inductor" in sys.modules)
