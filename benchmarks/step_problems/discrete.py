"""Discrete latent variables summed out: one in the guide (a class for each row), one in the model (a mixture)."""

# ruff: noqa: D102 (Problem says what these methods are)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import binary_cross_entropy_with_logits

from ppl_vae.data import load_digits
from step_problems.base import Problem, forward, layers, numpyro_enumerates, weights

PARALLEL = {"enumerate": "parallel"}


@dataclass(frozen=True)
class Enumeration(Problem):
    """A VAE with one categorical latent, the ELBO summed over it exactly."""

    hidden: int = 64
    classes: int = 10

    def networks(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        width = self.data.shape[1]
        return layers(self.classes, self.hidden, width), layers(width, self.hidden, self.classes)

    def pyro(self) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        decoder, encoder = self.networks()
        one_hot = torch.eye(self.classes)

        def model(x: Tensor) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Categorical(logits=x.new_zeros(self.classes)))
                pyro.sample("x", dist.Bernoulli(logits=decoder(one_hot[z])).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", encoder)
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Categorical(logits=encoder(x)), infer=PARALLEL)

        return model, guide, TraceEnum_ELBO(max_plate_nesting=1)

    def by_hand(self) -> tuple[Iterable[Tensor], Callable[[Tensor], Tensor]]:
        decoder, encoder = self.networks()
        one_hot = torch.eye(self.classes)

        def loss(x: Tensor) -> Tensor:
            log_q = encoder(x).log_softmax(-1)
            logits, target = torch.broadcast_tensors(decoder(one_hot), x.unsqueeze(1))
            nll = binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
            return (log_q.exp() * (nll + log_q + math.log(self.classes))).sum()

        return [*decoder.parameters(), *encoder.parameters()], loss

    def numpyro(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
        numpyro_enumerates()
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        out, into = (weights(network) for network in self.networks())
        one_hot = jnp.eye(self.classes)

        def model(x: Any) -> None:
            parameters = numpyro.param("decoder", out)
            with numpyro.plate("rows", len(x)):
                z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(self.classes)))
                numpyro.sample("x", dist.Bernoulli(logits=forward(parameters, one_hot[z])).to_event(1), obs=x)

        def guide(x: Any) -> None:
            parameters = numpyro.param("encoder", into)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("z", dist.Categorical(logits=forward(parameters, x)), infer=PARALLEL)

        return model, guide, numpyro.infer.TraceEnum_ELBO(max_plate_nesting=1)


@dataclass(frozen=True)
class Mixture(Problem):
    """A Gaussian mixture with global parameters: maximum likelihood, the components summed out in the model."""

    components: int = 3

    def start(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, locations, scales."""
        k = self.components
        return torch.full((k,), 1 / k), self.data[:k].clone(), torch.ones(k, self.data.shape[1])

    def pyro(self) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        initial = self.start()

        def model(x: Tensor) -> None:
            probs = pyro.param("weights", initial[0], constraint=constraints.simplex)
            locs = pyro.param("locs", initial[1])
            scales = pyro.param("scales", initial[2], constraint=constraints.positive)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Categorical(probs), infer=PARALLEL)
                pyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pass

        return model, guide, TraceEnum_ELBO(max_plate_nesting=1)

    def by_hand(self) -> tuple[Iterable[Tensor], Callable[[Tensor], Tensor]]:
        probs, locs, scales = self.start()
        logits, log_scales = probs.log(), scales.log()
        for parameter in (logits, locs, log_scales):
            parameter.requires_grad_()

        def loss(x: Tensor) -> Tensor:
            standard = (x.unsqueeze(1) - locs) * (-log_scales).exp()
            log_density = (-0.5 * standard**2 - log_scales - 0.5 * math.log(2 * math.pi)).sum(-1)
            return -(logits.log_softmax(-1) + log_density).logsumexp(-1).sum()

        return [logits, locs, log_scales], loss

    def numpyro(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
        numpyro_enumerates()
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.distributions import constraints

        initial = [jnp.array(part.numpy()) for part in self.start()]

        def model(x: Any) -> None:
            probs = numpyro.param("weights", initial[0], constraint=constraints.simplex)
            locs = numpyro.param("locs", initial[1])
            scales = numpyro.param("scales", initial[2], constraint=constraints.positive)
            with numpyro.plate("rows", len(x)):
                z = numpyro.sample("z", dist.Categorical(probs), infer=PARALLEL)
                numpyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)

        def guide(x: Any) -> None:
            pass

        return model, guide, numpyro.infer.TraceEnum_ELBO(max_plate_nesting=1)


def enumeration() -> Enumeration:
    return Enumeration(load_digits(binary=True).train, batch=64)


def mixture(num_rows: int = 500) -> Mixture:
    generator = torch.Generator().manual_seed(0)
    centre = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])[torch.arange(num_rows) % 3]
    return Mixture(centre + 0.7 * torch.randn(num_rows, 2, generator=generator), batch=num_rows)
