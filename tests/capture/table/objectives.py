"""The objectives of ppl_vae, in service as Pyro losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO

from ppl_vae.guides import AmortizedNormal, MeanField
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import (
    ELBO,
    IWAE,
    RLOO,
    VIMCO,
    Cyclical,
    DisARM,
    LinearWarmup,
    Neural,
    ReweightedWakeSleep,
    RunningAverage,
    ScoreFunction,
)

from .base import DIM, LATENT, ROWS, Problem, bernoulli_vae, categorical_vae, mlp, row, vae

LOSSES: dict[str, Callable[[], Any]] = {
    "ELBO()": ELBO,
    "ELBO(analytic_kl=False)": lambda: ELBO(analytic_kl=False),
    "ELBO(beta=0.5)": lambda: ELBO(beta=0.5),
    "ELBO(beta=LinearWarmup(4))": lambda: ELBO(beta=LinearWarmup(4)),
    "ELBO(beta=Cyclical(4))": lambda: ELBO(beta=Cyclical(4)),
    "ELBO(free_bits=0.1)": lambda: ELBO(free_bits=0.1),
    "ELBO(num_particles=3)": lambda: ELBO(num_particles=3),
    "IWAE(5)": lambda: IWAE(5),
    "IWAE(5, gradient='stl')": lambda: IWAE(5, gradient="stl"),
    "IWAE(5, gradient='dreg')": lambda: IWAE(5, gradient="dreg"),
}


# For draws without a reparametrization.
DISCRETE: dict[str, Callable[[], Any]] = {
    "ScoreFunction()": ScoreFunction,
    "ScoreFunction(num_particles=3)": lambda: ScoreFunction(num_particles=3),
    "ScoreFunction(RunningAverage())": lambda: ScoreFunction(RunningAverage()),
    "ScoreFunction(Neural)": lambda: ScoreFunction(Neural(mlp(DIM, 1))),
    "ScoreFunction, both baselines": lambda: ScoreFunction((RunningAverage(), Neural(mlp(DIM, 1)))),
    "RLOO(3)": lambda: RLOO(3),
    "VIMCO(3)": lambda: VIMCO(3),
    "DisARM()": DisARM,
    "ReweightedWakeSleep(3)": lambda: ReweightedWakeSleep(3),
}


def built_in(make_guide: Callable[[], Any], loss: Any) -> Problem:
    """A model and a guide of ppl_vae itself."""
    model = VAE(MLP(LATENT, DIM, hidden=(5,)), latent_dim=LATENT, likelihood="bernoulli")
    return Problem(model, make_guide(), loss, (torch.randn(ROWS, DIM).gt(0).float(),))


def amortized() -> Any:
    return AmortizedNormal(MLP(DIM, 2 * LATENT, hidden=(5,)), latent_dim=LATENT)


def free() -> Any:
    return MeanField(num_data=ROWS, latent_dim=LATENT)


ROWS_OF_OBJECTIVES = [
    *(row(name, lambda loss=loss: vae(loss())) for name, loss in LOSSES.items()),
    *(row(f"{name}, Bernoulli guide", lambda loss=loss: bernoulli_vae(loss())) for name, loss in DISCRETE.items()),
    row("RLOO(3), Categorical guide", lambda: categorical_vae(RLOO(3))),
    row("ReweightedWakeSleep(3), reparametrized guide", lambda: vae(ReweightedWakeSleep(3))),
    row("ELBO(), Bernoulli guide without reparametrization", lambda: bernoulli_vae(ELBO())),
    row("Trace_ELBO, VAE and AmortizedNormal", lambda: built_in(amortized, Trace_ELBO())),
    row("Trace_ELBO, VAE and MeanField", lambda: built_in(free, Trace_ELBO())),
    row("ELBO(), VAE and AmortizedNormal", lambda: built_in(amortized, ELBO())),
    row("ELBO(), VAE and MeanField", lambda: built_in(free, ELBO())),
    row("IWAE(5), VAE and AmortizedNormal", lambda: built_in(amortized, IWAE(5))),
]
