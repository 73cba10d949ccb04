"""Variational autoencoders on binary rows: small, large, importance weighted, and of any size."""

# ruff: noqa: D102 (Problem says what these methods are)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from ppl_vae.data import load_digits
from step_problems.base import Problem, forward, layers, weights


class Encoder(nn.Module):
    """Hidden layers, and one head each for location and logarithm of the scale."""

    def __init__(self, width: int, hidden: list[int], latent: int) -> None:
        super().__init__()
        self.body = layers(width, *hidden)
        self.loc, self.log_scale = nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = softplus(self.body(x))
        return self.loc(h), self.log_scale(h)


@dataclass(frozen=True)
class VAE(Problem):
    """Standard normal prior, diagonal normal guide, Bernoulli pixels; with `importance` the bound is IWAE's."""

    hidden: int = 64
    latent: int = 8
    depth: int = 1
    particles: int = 1
    importance: bool = False

    def networks(self) -> tuple[nn.Module, Encoder]:
        torch.manual_seed(0)
        width, hidden = self.data.shape[1], [self.hidden] * self.depth
        return layers(self.latent, *hidden, width), Encoder(width, hidden, self.latent)

    def pyro(self) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        decoder, encoder = self.networks()

        def model(x: Tensor) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", encoder)
            with pyro.plate("rows", len(x)):
                loc, log_scale = encoder(x)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        vectorized = {"num_particles": self.particles, "vectorize_particles": True, "max_plate_nesting": 1}
        if self.importance:
            return model, guide, RenyiELBO(alpha=0, **vectorized)
        return model, guide, Trace_ELBO(**vectorized) if self.particles > 1 else Trace_ELBO()

    def by_hand(self) -> tuple[Iterable[Tensor], Callable[[Tensor], Tensor]]:
        decoder, encoder = self.networks()

        def reconstruction(z: Tensor, x: Tensor) -> Tensor:
            logits = decoder(z)
            return binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

        def elbo(x: Tensor) -> Tensor:
            loc, log_scale = encoder(x)
            scale = log_scale.exp()
            z = loc + scale * torch.randn(self.particles, *loc.shape)
            kl = (0.5 * (loc**2 + scale**2 - 1) - log_scale).sum()
            return reconstruction(z, x).mean(0).sum() + kl

        def importance(x: Tensor) -> Tensor:
            loc, log_scale = encoder(x)
            noise = torch.randn(self.particles, *loc.shape)
            z = loc + log_scale.exp() * noise
            log_weight = (0.5 * (noise**2 - z**2) + log_scale).sum(-1) - reconstruction(z, x)
            return (math.log(self.particles) - log_weight.logsumexp(0)).sum()

        return [*decoder.parameters(), *encoder.parameters()], importance if self.importance else elbo

    def numpyro(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        decoder, encoder = self.networks()
        out = weights(decoder)
        heads = {"body": weights(encoder.body), "loc": weights(encoder.loc), "log_scale": weights(encoder.log_scale)}

        def model(x: Any) -> None:
            parameters = numpyro.param("decoder", out)
            with numpyro.plate("rows", len(x)):
                z = numpyro.sample("z", dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=forward(parameters, z)).to_event(1), obs=x)

        def guide(x: Any) -> None:
            parameters = numpyro.param("encoder", heads)
            h = jax.nn.softplus(forward(parameters["body"], x))
            loc, log_scale = forward(parameters["loc"], h), forward(parameters["log_scale"], h)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

        bound = numpyro.infer.RenyiELBO if self.importance else numpyro.infer.Trace_ELBO
        return model, guide, bound(num_particles=self.particles)


def digits() -> Tensor:
    return load_digits(binary=True).train


def wide(num_rows: int = 2000, width: int = 784) -> Tensor:
    """Binary rows of the shape of MNIST, from random low-rank logits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_rows, 10, generator=generator) @ torch.randn(10, width, generator=generator)
    return torch.bernoulli(logits.sigmoid(), generator=generator)


def small_vae() -> VAE:
    return VAE(digits(), batch=64)


def large_vae() -> VAE:
    return VAE(wide(), batch=128, hidden=400, latent=50)


def iwae() -> VAE:
    return VAE(digits(), batch=64, particles=50, importance=True)


def scaled_vae(axis: str, value: int) -> VAE:
    """The small VAE with one of batch, particles, latent, depth set otherwise."""
    return VAE(digits(), **{"batch": 64, axis: value})
