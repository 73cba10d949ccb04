"""Hidden Markov chains whose states are summed out, and unconstrained draws made into latents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import ELBO, Pair
from ppl_vae.evidence import log_evidence

NUM_STATES, NUM_ROWS = 3, 2
TRANSITIONS = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]], dtype=torch.float64)


def chain(length: int) -> tuple[Any, Any, Tensor]:
    """A chain of three states with normal emissions whose means are learned, its guide, and two sequences."""

    def model(x: Tensor) -> None:
        means = pyro.param("means", lambda: torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64))
        with pyro.plate("data", len(x)):
            state: Any = 0
            for t in pyro.markov(range(length)):
                rows = TRANSITIONS[state]
                state = pyro.sample(f"c{t}", dist.Categorical(rows), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(means[state], 1.0), obs=x[:, t])

    def guide(x: Tensor) -> None:
        pass

    generator = torch.Generator().manual_seed(0)
    return model, guide, torch.randn(NUM_ROWS, length, generator=generator, dtype=torch.float64)


def forward_algorithm(x: Tensor) -> Tensor:
    """The exact log p(x) of each row, by hand."""
    means = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64)
    emit = dist.Normal(means, 1.0).log_prob(x.unsqueeze(-1))
    alpha = TRANSITIONS[0].log() + emit[:, 0]
    for t in range(1, x.shape[1]):
        alpha = (alpha.unsqueeze(-1) + TRANSITIONS.log()).logsumexp(1) + emit[:, t]
    return alpha.logsumexp(-1)


def mean_seconds(length: int, call: Callable[[], object]) -> float:
    """Of calls after a first one, which checks the pair: a mean, since collecting garbage falls on some of them."""
    call()
    count = max(3, 3000 // length)
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


def seconds_of_evidence(length: int) -> float:
    """``log_evidence`` of a chain, compared with the forward algorithm."""
    model, guide, x = chain(length)
    pair = Pair(model, guide, dtype=torch.float64).initialize(x)
    torch.testing.assert_close(log_evidence(pair, x).value, forward_algorithm(x), rtol=1e-10, atol=1e-10)
    return mean_seconds(length, lambda: log_evidence(pair, x))


def seconds_of_a_gradient(length: int) -> float:
    """The ELBO and its gradient in the means."""
    model, guide, x = chain(length)
    pair = Pair(model, guide, dtype=torch.float64).initialize(x)
    batch = pair.rows(x).batch()

    def call() -> None:
        with pair.scope():
            ELBO().terms(pair, batch).surrogates["theta"].backward()

    return mean_seconds(length, call)


def seconds_of_a_draw(length: int) -> float:
    """States drawn from their posterior, and the data drawn anew at them."""
    model, guide, x = chain(length)
    pair = Pair(model, guide, dtype=torch.float64).initialize(x)
    return mean_seconds(length, lambda: pair.predict(x, {}, num_samples=1))


def milliseconds_to_constrain(draws: int) -> float:
    """Unconstrained draws of a positive and a real latent of 20 rows made into latents."""

    def model(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 2.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(2.0, 2.0))

    x = torch.ones(20, dtype=torch.float64)
    pair = Pair(model, guide, dtype=torch.float64).initialize(x)
    values = pair.draw(x, draws).values
    u, _ = pair.unconstrain(x, values)
    pair.constrain(x, u)
    started = time.perf_counter()
    again = pair.constrain(x, u)
    seconds = time.perf_counter() - started
    for name, value in values.items():
        torch.testing.assert_close(again[name], value, rtol=1e-8, atol=1e-8)
    return 1000 * seconds
