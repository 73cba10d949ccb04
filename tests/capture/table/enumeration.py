"""Discrete sites that are summed out: in the guide, in the model, along a chain, and by many draws for each site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceTMC_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from .base import CLASSES, DIM, ROWS, Problem, bernoulli_vae, categorical_vae, row, vae

STEPS = 4


def enumerated(how: str, **options: Any) -> Callable[[Tensor], dict[str, Any]]:
    return lambda x: {"enumerate": how, **options}


def gaussian_mixture(make_guide: Callable[..., Any], loss: Any) -> Problem:
    """Assignments are summed out in the model, and the guide, automatic, must not see them."""

    @config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(CLASSES)))
        with pyro.plate("components", CLASSES):
            locs = pyro.sample("locs", dist.Normal(torch.zeros(DIM), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            component = pyro.sample("component", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(Vindex(locs)[..., component, :], 1.0).to_event(1), obs=x)

    return Problem(model, make_guide(model), loss, (torch.randn(ROWS, DIM),))


def hidden(model: Callable[..., Any]) -> Any:
    return poutine.block(model, hide=["component"])


def hidden_markov(loss: Any) -> Problem:
    """States summed out along time; what is learned are constrained parameters, and the guide is empty."""
    start = torch.rand(CLASSES, CLASSES) + torch.eye(CLASSES)

    def model(x: Tensor) -> None:
        rows = start / start.sum(-1, keepdim=True)
        transition = pyro.param("transition", rows, constraint=constraints.simplex)
        locs = pyro.param("locs", torch.arange(float(CLASSES)))
        with pyro.plate("sequences", len(x)):
            state: Any = 0
            for t in pyro.markov(range(STEPS)):
                probs = Vindex(transition)[state]
                state = pyro.sample(f"state_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
                pyro.sample(f"x_{t}", dist.Normal(Vindex(locs)[state], 1.0), obs=x[:, t])

    return Problem(model, lambda x: None, loss, (torch.randn(ROWS, STEPS),))


def hidden_markov_in_one_distribution() -> Problem:
    """The same chain as a distribution of its own, scanned in parallel; transitions are latent."""

    def model(x: Tensor) -> None:
        with pyro.plate("states", CLASSES):
            transition = pyro.sample("transition", dist.Dirichlet(torch.ones(CLASSES)))
        locs = pyro.param("locs", torch.arange(float(CLASSES)))
        chain = dist.DiscreteHMM(torch.zeros(CLASSES), transition.log(), dist.Normal(locs, 1.0))
        with pyro.plate("sequences", len(x)):
            pyro.sample("x", chain, obs=x)

    return Problem(model, AutoDelta(model), Trace_ELBO(), (torch.randn(ROWS, STEPS),))


def one_by_one() -> Problem:
    """One run of the pair for each class of a latent that all data share."""
    logits = torch.tensor([0.3, 0.0, -0.3])

    def model(x: Tensor) -> None:
        locs = pyro.param("locs", torch.arange(float(CLASSES)))
        component = pyro.sample("component", dist.Categorical(logits=torch.zeros(CLASSES)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(locs[component], 1.0).expand([DIM]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        posterior = dist.Categorical(logits=pyro.param("logits", logits))
        pyro.sample("component", posterior, infer={"enumerate": "sequential"})

    return Problem(model, guide, TraceEnum_ELBO(max_plate_nesting=1), (torch.randn(ROWS, DIM),))


ROWS_OF_ENUMERATION = [
    row(
        "TraceEnum_ELBO, guide enumerated in parallel",
        lambda: categorical_vae(TraceEnum_ELBO(max_plate_nesting=1), infer=enumerated("parallel")),
    ),
    row(
        "TraceEnum_ELBO, guide enumerated in parallel, plates found by a first run",
        lambda: categorical_vae(TraceEnum_ELBO(), infer=enumerated("parallel")),
    ),
    row(
        "TraceEnum_ELBO, guide enumerated in parallel, expanded",
        lambda: categorical_vae(TraceEnum_ELBO(max_plate_nesting=1), infer=enumerated("parallel", expand=True)),
    ),
    row(
        "TraceEnum_ELBO, guide enumerated in parallel, particles vectorized",
        lambda: categorical_vae(
            TraceEnum_ELBO(max_plate_nesting=1, num_particles=3, vectorize_particles=True), infer=enumerated("parallel")
        ),
    ),
    row("TraceEnum_ELBO, guide enumerated one by one", one_by_one),
    row("TraceEnum_ELBO, nothing enumerated", lambda: vae(TraceEnum_ELBO(strict_enumeration_warning=False))),
    row(
        "TraceEnum_ELBO, mixture, AutoNormal",
        lambda: gaussian_mixture(lambda m: AutoNormal(hidden(m)), TraceEnum_ELBO(max_plate_nesting=1)),
    ),
    row(
        "TraceEnum_ELBO, mixture, AutoDelta, plates found by a first run",
        lambda: gaussian_mixture(lambda m: AutoDelta(hidden(m)), TraceEnum_ELBO()),
    ),
    row("TraceEnum_ELBO, hidden Markov model", lambda: hidden_markov(TraceEnum_ELBO(max_plate_nesting=1))),
    row("DiscreteHMM, AutoDelta", hidden_markov_in_one_distribution),
    row(
        "TraceTMC_ELBO, draws in parallel",
        lambda: vae(TraceTMC_ELBO(max_plate_nesting=1), infer=enumerated("parallel", num_samples=4)),
    ),
    row(
        "TraceTMC_ELBO, discrete draws in parallel",
        lambda: bernoulli_vae(TraceTMC_ELBO(max_plate_nesting=1), infer=enumerated("parallel", num_samples=4)),
    ),
    row(
        "TraceTMC_ELBO, guide enumerated in parallel",
        lambda: categorical_vae(TraceTMC_ELBO(max_plate_nesting=1), infer=enumerated("parallel")),
    ),
]
