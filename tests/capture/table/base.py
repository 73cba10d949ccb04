"""What a row of the table is, and the small VAE that most rows vary in one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

ROWS, DIM, LATENT, CLASSES = 8, 4, 3, 3


@dataclass
class Problem:
    """All that an SVI step needs but the optimizer: ``SVI(model, guide, optim, loss).step(*args, **kwargs)``."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    loss: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One kind of problem.

    ``make`` builds fresh modules and a fresh loss each time (losses remember what they have seen), always the same
    ones. ``falls_back`` is a regular expression that the reason must match, for what is known not to be capturable.
    """

    name: str
    make: Callable[[], Problem]
    falls_back: str | None = None


def row(name: str, build: Callable[[], Problem], falls_back: str | None = None) -> Row:
    """A row whose ``make`` builds under seed 0, and gives torch's generator back as it was."""

    def make() -> Problem:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return Row(name, make, falls_back)


# What a VAE is made of: a prior is called without arguments, a posterior and a likelihood with a network's output.


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs))


def positive(h: Tensor) -> Tensor:
    """Away from zero, where densities of gammas and the like are infinite."""
    return nn.functional.softplus(h) + 0.2


def standard_normal() -> Any:
    return dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)


def diagonal_normal(h: Tensor) -> Any:
    loc, raw = h.chunk(2, -1)
    return dist.Normal(loc, positive(raw)).to_event(1)


def unit_normal(h: Tensor) -> Any:
    return dist.Normal(h, 1.0).to_event(1)


def vae(
    loss: Any,
    *,
    x: Tensor | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    prior: Callable[[], Any] = standard_normal,
    posterior: Callable[[Tensor], Any] = diagonal_normal,
    likelihood: Callable[[Tensor], Any] = unit_normal,
    infer: Callable[[Tensor], dict[str, Any]] = lambda x: {},
    held: Mapping[str, nn.Module] | None = None,
) -> Problem:
    """Functions with ``pyro.module``. A prior or a posterior that is a module is registered as the networks are.

    Args:
        infer: the ``infer`` entries of the guide's site, given x.
        held: other modules that the guide registers.
    """
    x = torch.randn(ROWS, DIM) if x is None else x
    encoder = mlp(DIM, 2 * LATENT) if encoder is None else encoder
    decoder = mlp(LATENT, DIM) if decoder is None else decoder

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        if isinstance(prior, nn.Module):
            pyro.module("prior", prior)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", likelihood(decoder(z)), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        if isinstance(posterior, nn.Module):
            pyro.module("posterior", posterior)
        for name, module in (held or {}).items():
            pyro.module(name, module)
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(encoder(x.float())), infer=infer(x))  # classes are integers

    return Problem(model, guide, loss, (x,))


def bernoulli_vae(loss: Any, **options: Any) -> Problem:
    """Binary latents, without a reparametrization."""
    return vae(
        loss,
        encoder=mlp(DIM, LATENT),
        prior=lambda: dist.Bernoulli(logits=torch.zeros(LATENT)).to_event(1),
        posterior=lambda h: dist.Bernoulli(logits=h).to_event(1),
        **options,
    )


def categorical_vae(loss: Any, **options: Any) -> Problem:
    """One class for each datum: an integer that indexes an embedding."""
    return vae(
        loss,
        encoder=mlp(DIM, CLASSES),
        decoder=nn.Embedding(CLASSES, DIM),
        prior=lambda: dist.Categorical(logits=torch.zeros(CLASSES)),
        posterior=lambda h: dist.Categorical(logits=h),
        **options,
    )
