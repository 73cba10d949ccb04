"""A pair with 8 binary latents, small enough that every expectation is a sum: exact gradients beside replicates.

Every row has parameters of its own on both sides. So on copies of one datum the gradient of row r, times the number of
rows, is a replicate of the gradient of that datum's objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae._random import isolated_rng
from ppl_vae.data import Batch
from ppl_vae.objectives import Objective
from ppl_vae.pair import Pair

LATENTS, DIM, HIDDEN = 8, 5, 4
REPLICATES = 5000
DOUBLE = torch.float64


def drawn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Fixed normal numbers."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


DATA = (drawn(3, DIM, seed=1) > 0).to(DOUBLE)
CODES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * LATENTS)  # (256, 8)
PROJECTIONS = drawn(6, LATENTS, seed=2), drawn(6, LATENTS + DIM, seed=3)


class Binary(nn.Module):
    """c ~ Bernoulli(prior), x | c ~ Bernoulli(tanh(c W) V + bias); q(c | x) = Bernoulli(logits), all by row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(drawn(LATENTS, seed=4).expand(rows, -1).clone())
        self.prior = nn.Parameter(drawn(LATENTS, seed=5, scale=0.5).expand(rows, -1).clone())
        self.bias = nn.Parameter(drawn(DIM, seed=6, scale=0.5).expand(rows, -1).clone())
        self.weight, self.out = drawn(LATENTS, HIDDEN, seed=7), drawn(HIDDEN, DIM, seed=8, scale=2.0)

    def decoded(self, c: Tensor) -> Tensor:
        return torch.tanh((c - 0.5) @ self.weight) @ self.out + self.bias

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(logits=self.prior).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoded(c)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(logits=self.logits).to_event(1))

    def table(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of one row: log p(x, c) and log q(c | x) of all codes, (256,) each."""
        log_p = dist.Bernoulli(logits=self.prior).log_prob(CODES).sum(-1)
        log_p = log_p + dist.Bernoulli(logits=self.decoded(CODES)).log_prob(x).sum(-1)
        return log_p, dist.Bernoulli(logits=self.logits).log_prob(CODES).sum(-1)


def exact_elbo(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The ELBO, summed over codes: ()."""
    return (log_q.exp() * (log_p - log_q)).sum()


def exact_bound_of_two(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The importance weighted bound L_2, summed over pairs of codes: ()."""
    log_w, both = log_p - log_q, log_q.unsqueeze(0) + log_q.unsqueeze(1)
    return (both.exp() * (torch.logaddexp(log_w.unsqueeze(0), log_w.unsqueeze(1)) - math.log(2))).sum()


def by_group(phi: Tensor, prior: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in φ and in θ in fixed random projections, (..., 6) each."""
    return phi @ PROJECTIONS[0].T, torch.cat([prior, bias], -1) @ PROJECTIONS[1].T


def exact(bound: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The projected gradient of a bound of one datum, by summation."""
    module = Binary(1)
    value = bound(*module.table(x))
    return by_group(*(g[0] for g in torch.autograd.grad(value, [module.logits, module.prior, module.bias])))


def bound_pair(module: Any, x: Tensor) -> tuple[Pair, Batch]:
    """The pair of a module with methods ``model`` and ``guide``, on data."""
    return bound(module.model, module.guide, x)


def bound(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> tuple[Pair, Batch]:
    """A pair in float64 and its batch of all rows; whether it vectorizes has been tried, on noise of its own."""
    pair = Pair(model, guide, dtype=DOUBLE).initialize(x)
    batch = Batch((x,), {}, None, len(x))
    with pair.scope():
        pair.vectorizes(batch)
    return pair, batch


def gradients(objective: Objective, pair: Pair, batch: Batch, *, seed: int = 1) -> dict[str, Tensor]:
    """The gradient of the objective L/N by parameter."""
    leaves = pair.parameters_by_name()
    objective.to(pair.device, pair.dtype)
    for leaf in (*leaves.values(), *objective.parameters().values()):
        leaf.grad = None
    with pair.scope(), isolated_rng(seed):
        groups = {group: list(pair.parameters.of(group).values()) for group in ("theta", "phi", "shared")}
        objective.gradients(pair, batch, {**groups, "psi": list(objective.parameters().values())})
    return {n: torch.zeros_like(p) if p.grad is None else -p.grad for n, p in leaves.items()}


def replicates(objective: Objective, x: Tensor, *, count: int = REPLICATES, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Independent replicates of the projected gradient of one datum: (count, 6) for φ and for θ."""
    pair, batch = bound_pair(Binary(count), x.expand(count, -1).contiguous())
    found = gradients(objective, pair, batch, seed=seed)
    return by_group(*(count * found[f"model.{name}"] for name in ("logits", "prior", "bias")))


def largest_z(found: Tensor, truth: Tensor) -> float:
    """The largest |mean - truth| in standard errors over the columns of replicates (R, ...)."""
    error = found.std(0) / math.sqrt(len(found))
    return float(((found.mean(0) - truth).abs() / error.clamp(min=1e-12)).max())
