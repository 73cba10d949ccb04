"""Where parameters live: in Pyro's store under constraints, in modules, in guides that Pyro writes by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
    init_to_feasible,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from .base import DIM, LATENT, ROWS, Problem, mlp, positive, row


def constrained(start: Tensor, constraint: Any, likelihood: Callable[[Tensor, Tensor], Any]) -> Problem:
    """One constrained parameter on each side; p(x | z) is ``likelihood(z, value)`` with z of shape (ROWS, 1)."""

    def model(x: Tensor) -> None:
        value = pyro.param("value", start, constraint=constraint)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", likelihood(z, value), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: 0.1 * torch.ones(DIM, 1))
        scale = pyro.param("scale", torch.ones(1), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))

    return Problem(model, guide, Trace_ELBO(), (torch.randn(ROWS, DIM),))


def as_scale(z: Tensor, value: Tensor) -> Any:
    return dist.Normal(z.expand(*z.shape[:-1], DIM), value).to_event(1)


def as_loading(z: Tensor, value: Tensor) -> Any:
    return dist.Normal(z * value, 1.0).to_event(1)


def as_cholesky(z: Tensor, value: Tensor) -> Any:
    return dist.MultivariateNormal(z.expand(*z.shape[:-1], DIM), scale_tril=value)


def lower_triangle() -> Tensor:
    return torch.eye(DIM) + 0.1 * torch.ones(DIM, DIM).tril()


def correlations() -> Tensor:
    rows = lower_triangle()
    return rows / rows.norm(dim=-1, keepdim=True)


CONSTRAINED: dict[str, Callable[[], Problem]] = {
    "positive": lambda: constrained(torch.ones(DIM), constraints.positive, as_scale),
    "softplus_positive": lambda: constrained(torch.ones(DIM), dist.constraints.softplus_positive, as_scale),
    "interval": lambda: constrained(torch.tensor(0.7), constraints.interval(0.5, 2.0), as_scale),
    "simplex": lambda: constrained(torch.full((DIM,), 1 / DIM), constraints.simplex, as_loading),
    "ordered_vector": lambda: constrained(torch.arange(float(DIM)), dist.constraints.ordered_vector, as_loading),
    "lower_cholesky": lambda: constrained(lower_triangle(), constraints.lower_cholesky, as_cholesky),
    "corr_cholesky": lambda: constrained(correlations(), constraints.corr_cholesky, as_cholesky),
}


class Decoder(PyroModule):
    """A network inside, and a constrained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(LATENT, DIM)
        self.noise = PyroParam(torch.ones(DIM), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)


class Encoder(PyroModule):
    """Its parameters must not be named as the decoder's are: in Pyro's one store they would be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(DIM, LATENT)
        self.scale = PyroParam(lambda: torch.ones(LATENT), constraint=constraints.positive)  # made at the first call

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))


class Both(nn.Module):
    """Model and guide as methods of one module, as in Pyro's VAE tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(DIM, 2 * LATENT), mlp(LATENT, DIM)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(x.shape[0], LATENT)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, positive(raw)).to_event(1))


def modules(loss: Any) -> Problem:
    return Problem(Decoder(), Encoder(), loss, (torch.randn(ROWS, DIM),))


def methods() -> Problem:
    both = Both()
    return Problem(both.model, both.guide, Trace_ELBO(), (torch.randn(ROWS, DIM).gt(0).float(),))


def half_frozen() -> Problem:
    """A network that does not learn beside one that does."""
    problem = modules(Trace_ELBO())
    problem.model.decoder.requires_grad_(False).eval()  # in training mode Pyro warns of what does not learn
    return problem


class Regression(PyroModule):
    """Weights with a prior (PyroSample), a scale with one, and covariates x beside what is observed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](DIM, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, DIM]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, scale), obs=y)


def regression(make_guide: Callable[[Any], Any], loss: Any) -> Problem:
    model, x = Regression(), torch.randn(ROWS, DIM)
    return Problem(model, make_guide(model), loss, (x, x.sum(-1)))


def two_guides(model: Any) -> Any:
    guide = AutoGuideList(model)
    guide.append(AutoDelta(poutine.block(model, expose=["scale"])))
    guide.append(AutoNormal(poutine.block(model, hide=["scale"])))
    return guide


AUTOGUIDES: dict[str, Callable[[Any], Any]] = {
    "AutoNormal": AutoNormal,
    "AutoNormal, feasible start": lambda model: AutoNormal(model, init_loc_fn=init_to_feasible),
    "AutoDelta": AutoDelta,
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": AutoLowRankMultivariateNormal,
    "AutoIAFNormal": AutoIAFNormal,
    "AutoStructured": lambda model: AutoStructured(model, conditionals="normal", dependencies="linear"),
    "AutoGuideList": two_guides,
}

ROWS_OF_PARAMETERS = [
    *(row(f"parameter, {name}", make) for name, make in CONSTRAINED.items()),
    row("PyroModules with PyroParam", lambda: modules(Trace_ELBO())),
    row("PyroModules with PyroParam, particles looped", lambda: modules(Trace_ELBO(num_particles=3))),
    row(
        "PyroModules with PyroParam, particles vectorized",
        lambda: modules(Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)),
    ),
    row("methods of one module", methods),
    row("a frozen network", half_frozen),
    *(
        row(f"PyroSample weights, {name}", lambda make=make: regression(make, Trace_ELBO()))
        for name, make in AUTOGUIDES.items()
    ),
    row("PyroSample weights, AutoNormal, TraceMeanField_ELBO", lambda: regression(AutoNormal, TraceMeanField_ELBO())),
]
