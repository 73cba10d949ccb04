"""Discrete latents under the objectives of ppl_vae: summed out in the guide and in the model, relaxed, drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO

from ppl_vae.guides import (
    AmortizedNormal,
    EnumeratedCategorical,
    RelaxedCategorical,
    SampledCategorical,
    SemiSupervisedGuide,
)
from ppl_vae.models import DiscreteVAE, MixtureVAE, SemiSupervisedVAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import ELBO, IWAE, RLOO, VIMCO

from .base import CLASSES, DIM, LATENT, ROWS, Problem, bernoulli_vae, categorical_vae, row
from .enumeration import AutoDelta, enumerated, gaussian_mixture, hidden

CODES = 2


def binary_rows() -> torch.Tensor:
    return torch.randn(ROWS, DIM).gt(0).float()


def net(inputs: int, outputs: int) -> MLP:
    return MLP(inputs, outputs, hidden=(5,))


def discrete(make_guide: Callable[..., Any], loss: Any, **options: Any) -> Problem:
    """A discrete VAE with two latents of three classes."""
    sizes = {"num_latents": CODES, "num_classes": CLASSES}
    model = DiscreteVAE(net(CODES * CLASSES, DIM), likelihood="bernoulli", **sizes)
    return Problem(model, make_guide(net(DIM, CODES * CLASSES), **sizes, **options), loss, (binary_rows(),))


def factorized(loss: Any) -> Problem:
    """A latent for each column of x."""
    sizes = {"num_latents": DIM, "num_classes": CLASSES, "factorized": True}
    model = DiscreteVAE(torch.nn.Linear(CLASSES, 2), likelihood="bernoulli", **sizes)
    guide = EnumeratedCategorical(net(2 * DIM, DIM * CLASSES), **sizes)
    x = torch.randn(ROWS, DIM, 2).gt(0).float()
    guide.encoder = torch.nn.Sequential(torch.nn.Flatten(), guide.encoder)
    return Problem(model, guide, loss, (x,))


def mixture(loss: Any) -> Problem:
    model = MixtureVAE(net(LATENT, DIM), latent_dim=LATENT, num_components=CLASSES, likelihood="bernoulli")
    return Problem(model, AmortizedNormal(net(DIM, 2 * LATENT), latent_dim=LATENT), loss, (binary_rows(),))


def semi_supervised(loss: Any, **options: Any) -> Problem:
    sizes = {"num_classes": CLASSES, "latent_dim": LATENT}
    model = SemiSupervisedVAE(net(CLASSES + LATENT, DIM), likelihood="bernoulli", **sizes)
    guide = SemiSupervisedGuide(net(DIM, CLASSES), net(DIM + CLASSES, 2 * LATENT), **sizes, **options)
    labels = torch.arange(ROWS) % (CLASSES + 1) - 1
    return Problem(model, guide, loss, (binary_rows(),), {"y": labels})


ROWS_OF_CODES = [
    row("ELBO(), Categorical guide enumerated", lambda: categorical_vae(ELBO(), infer=enumerated("parallel"))),
    row("ELBO(), Bernoulli guide enumerated jointly", lambda: bernoulli_vae(ELBO(), infer=enumerated("parallel"))),
    row(
        "ELBO(), Bernoulli guide enumerated in pieces",
        lambda: bernoulli_vae(ELBO(), infer=enumerated("parallel", max_rows=2 * ROWS)),
    ),
    row("ELBO(), mixture summed out, AutoDelta", lambda: gaussian_mixture(lambda m: AutoDelta(hidden(m)), ELBO())),
    row("ELBO(), discrete VAE enumerated", lambda: discrete(EnumeratedCategorical, ELBO())),
    row("ELBO(), discrete VAE enumerated in pieces", lambda: discrete(EnumeratedCategorical, ELBO(), max_rows=24)),
    row("TraceEnum_ELBO, discrete VAE", lambda: discrete(EnumeratedCategorical, TraceEnum_ELBO(max_plate_nesting=1))),
    row("ELBO(), discrete VAE, a plate of latents", lambda: factorized(ELBO())),
    row("ELBO(), discrete VAE, Gumbel-softmax", lambda: discrete(RelaxedCategorical, ELBO(), temperature=0.5)),
    row(
        "ELBO(), discrete VAE, straight-through",
        lambda: discrete(RelaxedCategorical, ELBO(), temperature=0.5, straight_through=True),
    ),
    row("RLOO(3), discrete VAE", lambda: discrete(SampledCategorical, RLOO(3))),
    row("VIMCO(3), discrete VAE", lambda: discrete(SampledCategorical, VIMCO(3))),
    row("ELBO(), mixture VAE", lambda: mixture(ELBO())),
    row("IWAE(3), mixture VAE", lambda: mixture(IWAE(3))),
    row("ELBO(), semi-supervised VAE", lambda: semi_supervised(ELBO(), auxiliary=5.0)),
    row("RLOO(3), semi-supervised VAE, labels drawn", lambda: semi_supervised(RLOO(3), enumerate=False)),
]
