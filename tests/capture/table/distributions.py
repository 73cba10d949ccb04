"""Families of distributions: as a latent (drawn by the guide, scored on both sides), and as a likelihood (scored)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from .base import CLASSES, DIM, LATENT, ROWS, mlp, positive, row, unit_normal, vae

Make = Callable[..., Any]


def two(family: Make) -> Make:
    """A posterior with two positive numbers an entry."""
    return lambda h: family(*(positive(part) for part in h.chunk(2, -1))).to_event(1)


def one(family: Make) -> Make:
    """A posterior with a location and a scale."""
    return lambda h: family(h.chunk(2, -1)[0], positive(h.chunk(2, -1)[1])).to_event(1)


def entries(family: Make, *numbers: float) -> Make:
    """A prior with the same numbers for every entry of z."""
    return lambda: family(*(torch.full((LATENT,), n) for n in numbers)).to_event(1)


def triangle(h: Tensor) -> Tensor:
    loc, raw = h.chunk(2, -1)
    return torch.diag_embed(positive(raw)) + 0.1 * (loc.unsqueeze(-1) * raw.unsqueeze(-2)).tril(-1)


def logits(h: Tensor) -> Tensor:
    return h[..., :LATENT]


# name: prior, posterior
LATENTS: dict[str, tuple[Make, Make]] = {
    "Gamma": (entries(dist.Gamma, 2.0, 1.0), two(dist.Gamma)),
    "InverseGamma": (entries(dist.InverseGamma, 2.0, 1.0), two(dist.InverseGamma)),
    "Beta": (entries(dist.Beta, 2.0, 2.0), two(dist.Beta)),
    "Weibull": (entries(dist.Weibull, 1.0, 2.0), two(dist.Weibull)),
    "Kumaraswamy": (entries(dist.Kumaraswamy, 2.0, 2.0), two(dist.Kumaraswamy)),
    "LogNormal": (entries(dist.LogNormal, 0.0, 1.0), one(dist.LogNormal)),
    "Laplace": (entries(dist.Laplace, 0.0, 1.0), one(dist.Laplace)),
    "Cauchy": (entries(dist.Cauchy, 0.0, 1.0), one(dist.Cauchy)),
    "StudentT": (
        entries(dist.StudentT, 4.0, 0.0, 1.0),
        lambda h: dist.StudentT(4.0, logits(h), positive(h[..., LATENT:])).to_event(1),
    ),
    "Dirichlet": (lambda: dist.Dirichlet(torch.ones(LATENT)), lambda h: dist.Dirichlet(positive(logits(h)))),
    "MultivariateNormal": (
        lambda: dist.MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT)),
        lambda h: dist.MultivariateNormal(logits(h), scale_tril=triangle(h)),
    ),
    "LowRankMultivariateNormal": (
        lambda: dist.MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT)),
        lambda h: dist.LowRankMultivariateNormal(logits(h), h[..., LATENT:, None], positive(logits(h))),
    ),
    "RelaxedOneHotCategorical": (
        lambda: dist.RelaxedOneHotCategorical(torch.tensor(0.7), logits=torch.zeros(LATENT)),
        lambda h: dist.RelaxedOneHotCategorical(torch.tensor(0.7), logits=logits(h)),
    ),
    "RelaxedBernoulli": (
        lambda: dist.RelaxedBernoulli(torch.tensor(0.7), logits=torch.zeros(LATENT)).to_event(1),
        lambda h: dist.RelaxedBernoulli(torch.tensor(0.7), logits=logits(h)).to_event(1),
    ),
    "OneHotCategoricalStraightThrough": (
        lambda: dist.OneHotCategorical(logits=torch.zeros(LATENT)),
        lambda h: dist.OneHotCategoricalStraightThrough(logits=logits(h)),
    ),
    "Poisson": (entries(dist.Poisson, 1.0), lambda h: dist.Poisson(positive(logits(h))).to_event(1)),
    "Delta": (entries(dist.Normal, 0.0, 1.0), lambda h: dist.Delta(logits(h)).to_event(1)),
}


def simplices() -> Tensor:
    return torch.full((DIM,), 1.0).softmax(-1) * 0.5 + torch.randn(ROWS, DIM).softmax(-1) * 0.5


# name: numbers that the decoder puts out, likelihood, data
LIKELIHOODS: dict[str, tuple[int, Make, Make]] = {
    "Bernoulli": (DIM, lambda h: dist.Bernoulli(logits=h).to_event(1), lambda: torch.rand(ROWS, DIM).round()),
    "Binomial": (
        DIM,
        lambda h: dist.Binomial(total_count=5, logits=h).to_event(1),
        lambda: torch.randint(6, (ROWS, DIM)).float(),
    ),
    "Poisson": (DIM, lambda h: dist.Poisson(positive(h)).to_event(1), lambda: torch.randint(6, (ROWS, DIM)).float()),
    "NegativeBinomial": (
        DIM,
        lambda h: dist.NegativeBinomial(total_count=3.0, logits=h).to_event(1),
        lambda: torch.randint(6, (ROWS, DIM)).float(),
    ),
    "ZeroInflatedPoisson": (
        2 * DIM,
        lambda h: dist.ZeroInflatedPoisson(positive(h[..., :DIM]), gate_logits=h[..., DIM:]).to_event(1),
        lambda: torch.randint(3, (ROWS, DIM)).float(),
    ),
    "Categorical": (
        CLASSES * DIM,
        lambda h: dist.Categorical(logits=h.unflatten(-1, (DIM, CLASSES))).to_event(1),
        lambda: torch.randint(CLASSES, (ROWS, DIM)),
    ),
    "OneHotCategorical": (
        DIM,
        lambda h: dist.OneHotCategorical(logits=h),
        lambda: torch.eye(DIM)[torch.randint(DIM, (ROWS,))],
    ),
    "Multinomial": (
        DIM,
        lambda h: dist.Multinomial(total_count=6, logits=h),
        lambda: dist.Multinomial(total_count=6, logits=torch.zeros(ROWS, DIM)).sample(),
    ),
    "Gamma": (2 * DIM, two(dist.Gamma), lambda: torch.rand(ROWS, DIM) + 0.1),
    "Beta": (2 * DIM, two(dist.Beta), lambda: 0.1 + 0.8 * torch.rand(ROWS, DIM)),
    "Weibull": (2 * DIM, two(dist.Weibull), lambda: torch.rand(ROWS, DIM) + 0.1),
    "LogNormal": (2 * DIM, one(dist.LogNormal), lambda: torch.rand(ROWS, DIM) + 0.1),
    "StudentT": (
        2 * DIM,
        lambda h: dist.StudentT(4.0, h[..., :DIM], positive(h[..., DIM:])).to_event(1),
        lambda: torch.randn(ROWS, DIM),
    ),
    "VonMises": (2 * DIM, one(dist.VonMises), lambda: torch.randn(ROWS, DIM)),  # scored and not drawn
    "Dirichlet": (DIM, lambda h: dist.Dirichlet(positive(h)), simplices),
    "MultivariateNormal": (
        DIM,
        lambda h: dist.MultivariateNormal(h, torch.eye(DIM) + 0.5),
        lambda: torch.randn(ROWS, DIM),
    ),
    "MixtureSameFamily": (
        2 * DIM,
        lambda h: dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), unit_normal(h.unflatten(-1, (2, DIM)))),
        lambda: torch.randn(ROWS, DIM),
    ),
}

ROWS_OF_DISTRIBUTIONS = [
    *(
        row(
            f"{name} latent",
            lambda prior=prior, posterior=posterior: vae(Trace_ELBO(), prior=prior, posterior=posterior),
        )
        for name, (prior, posterior) in LATENTS.items()
    ),
    row(
        "VonMises latent",  # drawn by rejection, until all are accepted
        lambda: vae(Trace_ELBO(), prior=entries(dist.VonMises, 0.0, 1.0), posterior=one(dist.VonMises)),
        falls_back="VonMises|[Rr]ejection|data|loop",
    ),
    *(
        row(
            f"{name} likelihood",
            lambda outputs=outputs, likelihood=likelihood, data=data: vae(
                Trace_ELBO(), x=data(), likelihood=likelihood, decoder=mlp(LATENT, outputs)
            ),
        )
        for name, (outputs, likelihood, data) in LIKELIHOODS.items()
    ),
]
