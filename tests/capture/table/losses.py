"""Pyro's losses, each on a pair that it is made for."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor, nn

from .base import DIM, LATENT, ROWS, Problem, bernoulli_vae, categorical_vae, mlp, positive, row, vae


def vectorized(kind: type, num_particles: int = 3, **options: Any) -> Any:
    return kind(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1, **options)


def hand_written(model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The loss as a function, from Pyro's tutorial on custom objectives."""
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return guide_trace.log_prob_sum() - model_trace.log_prob_sum()


def network_baseline() -> Problem:
    """A network predicts the cost of each datum, and learns from its own loss beside the ELBO."""
    net = nn.Sequential(mlp(DIM, 1), nn.Flatten(0))
    return bernoulli_vae(
        TraceGraph_ELBO(),
        held={"baseline": net},
        infer=lambda x: {"baseline": {"nn_baseline": net, "nn_baseline_input": x}},
    )


def tensor_baseline() -> Problem:
    """The guide computes the baseline itself."""
    net = nn.Sequential(mlp(DIM, 1), nn.Flatten(0))
    return bernoulli_vae(
        TraceGraph_ELBO(),
        held={"baseline": net},
        infer=lambda x: {"baseline": {"baseline_value": net(x)}},
    )


def decaying_average() -> Problem:
    """Pyro writes the new average over the parameter in its store, at each step another tensor."""
    return bernoulli_vae(TraceGraph_ELBO(), infer=lambda x: {"baseline": {"use_decaying_avg_baseline": True}})


def wake_sleep(loss: Any) -> Problem:
    """The data as a dictionary: Pyro's loss puts what the model dreams in its place."""
    encoder, decoder = mlp(DIM, 2 * LATENT), mlp(LATENT, DIM)

    def model(observations: dict[str, Tensor | None]) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=observations["x"])

    def guide(observations: dict[str, Tensor]) -> None:
        pyro.module("encoder", encoder)
        loc, raw = encoder(observations["x"]).chunk(2, -1)
        with pyro.plate("data", ROWS):
            pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))

    return Problem(model, guide, loss, kwargs={"observations": {"x": torch.randn(ROWS, DIM)}})


LOSSES = [
    row("Trace_ELBO", lambda: vae(Trace_ELBO())),
    row("Trace_ELBO, particles looped", lambda: vae(Trace_ELBO(num_particles=3))),
    row("Trace_ELBO, particles vectorized", lambda: vae(vectorized(Trace_ELBO))),
    row(
        "Trace_ELBO, particles vectorized, plates found by a first run",
        lambda: vae(Trace_ELBO(num_particles=3, vectorize_particles=True)),
    ),
    row("Trace_ELBO, graph retained", lambda: vae(Trace_ELBO(retain_graph=True))),
    row("TraceMeanField_ELBO", lambda: vae(TraceMeanField_ELBO())),
    row("TraceMeanField_ELBO, particles looped", lambda: vae(TraceMeanField_ELBO(num_particles=3))),
    row("TraceMeanField_ELBO, particles vectorized", lambda: vae(vectorized(TraceMeanField_ELBO))),
    row("a loss that is a function", lambda: vae(hand_written)),
    *(
        row(f"RenyiELBO, alpha {alpha}, particles {how}", lambda alpha=alpha, kind=kind: vae(kind(alpha)))
        for alpha in (0, 0.5)
        for how, kind in (
            ("looped", lambda alpha: RenyiELBO(alpha=alpha, num_particles=3)),
            ("vectorized", lambda alpha: vectorized(RenyiELBO, alpha=alpha)),
        )
    ),
    row("ReweightedWakeSleep, particles looped", lambda: vae(ReweightedWakeSleep(3, vectorize_particles=False))),
    row("ReweightedWakeSleep, particles vectorized", lambda: vae(ReweightedWakeSleep(3, max_plate_nesting=1))),
    row("ReweightedWakeSleep, wake and sleep", lambda: wake_sleep(ReweightedWakeSleep(3, insomnia=0.8))),
    row("ReweightedWakeSleep, discrete latents", lambda: bernoulli_vae(ReweightedWakeSleep(3))),
]

GRADIENTS_BY_SCORE = [
    *(
        row(f"{loss.__name__}, {name} guide without reparametrization", lambda make=make, loss=loss: make(loss()))
        for loss in (Trace_ELBO, TraceGraph_ELBO)
        for name, make in (("Bernoulli", bernoulli_vae), ("Categorical", categorical_vae))
    ),
    row("Trace_ELBO, Bernoulli guide, particles vectorized", lambda: bernoulli_vae(vectorized(Trace_ELBO))),
    row("TraceGraph_ELBO, Normal guide", lambda: vae(TraceGraph_ELBO())),
    row("TraceGraph_ELBO, baseline a network", network_baseline),
    row("TraceGraph_ELBO, baseline a tensor of the guide", tensor_baseline),
    row("TraceGraph_ELBO, baseline a decaying average", decaying_average, falls_back="baseline|average|store"),
]

ROWS_OF_LOSSES = LOSSES + GRADIENTS_BY_SCORE
