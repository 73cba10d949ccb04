"""Pairs with exact answers, and a table of pairs of every kind that Pyro's users write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.flows import AffineCoupling, Augment, Chain, ConditionalNormal, ElementwiseAffine, Layer, LULinear
from ppl_vae.guides import AmortizedFlow, FlowGuide, RelaxedCategorical, SampledCategorical
from ppl_vae.models import VAE, DiscreteVAE, FlowModel
from ppl_vae.models.priors import FlowPrior

DIM, LATENT = 3, 2


def rows(n: int = 20, *, seed: int = 0, dtype: torch.dtype = torch.float64, dim: int = DIM) -> Tensor:
    """n rows of correlated normal data."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return (torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mix).to(dtype)


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x | z ~ N(z W + b, σ² I), with a linear guide N(z; x A + c, diag s²): everything in closed form."""

    def __init__(self, *, exact: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))

        self.weight, self.bias = draw(LATENT, DIM), draw(DIM)
        self.log_sigma = nn.Parameter(torch.tensor(-0.3, dtype=dtype))
        self.slope, self.offset, self.log_scale = draw(DIM, LATENT), draw(LATENT), draw(LATENT)
        self.exact = exact

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), x.new_ones(LATENT)).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight + self.bias, self.log_sigma.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.posterior(x) if self.exact else self.q(x))

    def q(self, x: Tensor) -> Any:
        """The guide's normal, diagonal."""
        return dist.Normal(x @ self.slope + self.offset, self.log_scale.exp()).to_event(1)

    def posterior(self, x: Tensor) -> Any:
        """The exact p(z | x), in terms of the model's own parameters."""
        precision = torch.eye(LATENT, dtype=x.dtype) + self.weight @ self.weight.T / self.log_sigma.exp() ** 2
        mean = (x - self.bias) @ self.weight.T @ torch.linalg.inv(precision) / self.log_sigma.exp() ** 2
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def log_marginal(self, x: Tensor) -> Tensor:
        """The exact log p(x), (N,) nats."""
        noise = self.log_sigma.exp() ** 2 * torch.eye(DIM, dtype=x.dtype)
        return dist.MultivariateNormal(self.bias, self.weight.T @ self.weight + noise).log_prob(x).detach()

    def exact_elbo(self, x: Tensor) -> Tensor:
        """The exact ELBO of the diagonal guide, (N,) nats: log p(x) - KL(q || p(z|x))."""
        q = self.q(x)
        full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        return (self.log_marginal(x) - torch.distributions.kl_divergence(full, self.posterior(x))).detach()


class Replicated(LinearGaussian):
    """A free normal for every row: on copies of one datum the gradient of row r is replicate r."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.full((copies, LATENT), 0.3, dtype=torch.float64))
        self.spread = nn.Parameter(torch.full((copies, LATENT), -0.2, dtype=torch.float64))
        self.x = rows(1).expand(copies, DIM).contiguous()

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(self.loc, self.spread.exp()).to_event(1))


def function_pair() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Plain functions with lazily made, randomly started, constrained parameters."""

    def model(x: Tensor) -> None:
        weight = pyro.param("weight", lambda: torch.randn(LATENT, DIM))
        scale = pyro.param("scale", lambda: torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.randn(DIM, LATENT))
        spread = pyro.param("spread", lambda: torch.ones(LATENT), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, spread).to_event(1))

    return model, guide


class Decoder(PyroModule):
    """A PyroModule model: a plain network inside, a constrained parameter, called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(LATENT, DIM)
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)


class Encoder(PyroModule):
    """A PyroModule guide, with a parameter of the same name as the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(DIM, LATENT)
        self.scale = PyroParam(torch.ones(LATENT), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), self.scale).to_event(1))


class TutorialVAE(nn.Module):
    """Pyro's own VAE tutorial: methods of one module, networks registered by ``pyro.module``, no broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(LATENT, DIM), nn.Linear(DIM, 2 * LATENT)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(torch.Size((x.shape[0], LATENT)))
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            loc = self.decoder(z.reshape(x.shape[0], LATENT))  # breaks under a particle plate
            pyro.sample("obs", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def shared_mean(x: Tensor) -> None:
    """Global latents: a mean and a scale for all data."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, scale.unsqueeze(-1)).to_event(1), obs=x)


def misaligned(x: Tensor) -> None:
    """Right for one draw, wrong for many at once: without ``unsqueeze`` the draws of scale meet the columns of mean."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


class Regression(PyroModule):
    """A Bayesian linear layer (PyroSample), x the covariates and y observed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](DIM, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, DIM]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def mixed_latents() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A discrete latent beside a continuous one: score function and reparametrization in one pair."""

    def model(x: Tensor) -> None:
        shift = pyro.param("shift", lambda: torch.ones(DIM))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            c = pyro.sample("c", dist.Bernoulli(logits=torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(z.sum(-1, True) + c.unsqueeze(-1) * shift, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: 0.1 * torch.ones(DIM, LATENT))
        logit = pyro.param("logit", lambda: 0.2 * torch.ones(DIM))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x @ slope, 0.7).to_event(1))
            pyro.sample("c", dist.Bernoulli(logits=x @ logit))

    return model, guide


def crossed_plates(x: Tensor) -> None:
    """A factor model with a plate of columns to the left of the data plate, w global and z local."""
    columns, data = pyro.plate("columns", DIM, dim=-2), pyro.plate("data", len(x), dim=-1)
    with columns:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with data:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with columns, data:
        pyro.sample("x", dist.Normal(w * z, 1.0), obs=x.T)


def annotated() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``pyro.deterministic`` inside and outside the plate, on both sides, and a factor for every row."""

    def model(x: Tensor) -> None:
        sigma = pyro.deterministic("sigma", pyro.param("log_sigma", lambda: torch.zeros(())).exp())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            loc = pyro.deterministic("loc", z.sum(-1, keepdim=True).expand(*z.shape[:-1], DIM), event_dim=1)
            pyro.factor("penalty", -0.1 * z.square().sum(-1))
            pyro.sample("x", dist.Normal(loc, sigma).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.deterministic("slope", pyro.param("raw", lambda: 0.1 * torch.ones(DIM, LATENT)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, 0.7).to_event(1))

    return model, guide


def positive_latent() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A latent scale for every row, under a transformed guide."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(DIM))
        with pyro.plate("data", x.shape[0]):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: 0.1 * torch.ones(DIM))
        spread = pyro.param("spread", lambda: torch.tensor(0.5), constraint=constraints.positive)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("scale", dist.LogNormal(x @ slope, spread))

    return model, guide


def index_trap() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``z[:, 0]`` is right for one draw and wrong for many, and a weight that starts at 0 hides it."""

    def model(x: Tensor) -> None:
        w = pyro.param("w", lambda: torch.zeros(()))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((w * z[:, 0]).unsqueeze(-1), torch.ones(DIM)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(pyro.param("a", lambda: torch.ones(())) * x[:, :1], 0.7).to_event(1))

    return model, guide


def two_levels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A local latent that the guide draws given another."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            u = pyro.sample("u", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(u.unsqueeze(-1), torch.ones(DIM)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.param("a", lambda: torch.ones(()))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(a * x[:, 0], 1.0))
            pyro.sample("u", dist.Normal(3 * z, 0.1))

    return model, guide


def codes(guide: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """A code of two latents of two classes for every row, under a guide of codes."""
    sizes = {"num_latents": 2, "num_classes": 2}
    model = DiscreteVAE(nn.Linear(4, DIM), likelihood="unit-normal", **sizes)
    return model, guide(nn.Linear(DIM, 4), **sizes, **options)


def flow_pair(flow: Layer) -> tuple[Any, Any]:
    """A flow as a pair: both sides hold it."""
    return FlowModel(flow), FlowGuide(flow)


def bijection() -> Layer:
    return Chain([ElementwiseAffine(DIM), AffineCoupling(DIM, hidden=(4,)), LULinear(DIM)])


def augmented() -> Layer:
    """A flow that draws noise beside x, and decodes without chance: a lower bound."""
    return Chain([Augment(DIM, 1, noise=ConditionalNormal(DIM, 1, hidden=(4,))), ElementwiseAffine(DIM + 1)])


def flows_for_z() -> tuple[Any, Any]:
    """A VAE whose prior and whose posterior are flows."""
    model = VAE(
        nn.Linear(LATENT, DIM), latent_dim=LATENT, likelihood="unit-normal", prior=FlowPrior(ElementwiseAffine(LATENT))
    )
    flow = Chain([AffineCoupling(LATENT, hidden=(), context_dim=2), LULinear(LATENT)])
    return model, AmortizedFlow(nn.Linear(DIM, 2), flow, latent_dim=LATENT)


@dataclass(frozen=True)
class Case:
    """One kind of pair: how to make it, and what should be found of it."""

    make: Callable[[], tuple[Any, Any]]
    theta: int  # numbers in θ, φ and shared
    phi: int
    shared: int = 0
    joint: bool = False  # latents outside the data plate
    vectorizes: bool = True
    supervised: bool = False
    observed: tuple[str, ...] = ("x",)
    point: bool = False  # p(x | z) is a point, so the prior cannot propose
    certain: bool = False  # and the guide does not draw either


def _auto(kind: Callable[..., Any], model: Callable[..., Any] = shared_mean) -> Callable[[], tuple[Any, Any]]:
    return lambda: (model, kind(model))


def _methods(cls: type) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        module = cls()
        return module.model, module.guide

    return make


def _regression() -> tuple[Any, Any]:
    model = Regression()
    return model, AutoNormal(model)


CASES: dict[str, Case] = {
    "functions": Case(function_pair, theta=7, phi=8),
    "pyro modules": Case(lambda: (Decoder(), Encoder()), theta=10, phi=10),
    "methods": Case(_methods(LinearGaussian), theta=10, phi=10),
    "tutorial": Case(_methods(TutorialVAE), theta=9, phi=16, vectorizes=False, observed=("obs",)),
    "mixed latents": Case(mixed_latents, theta=3, phi=9),
    "annotated": Case(annotated, theta=1, phi=6),
    "positive latent": Case(positive_latent, theta=3, phi=4),
    "index trap": Case(index_trap, theta=1, phi=1, vectorizes=False),
    "two levels": Case(two_levels, theta=0, phi=1),
    "drawn codes": Case(lambda: codes(SampledCategorical), theta=15, phi=16),
    "relaxed codes": Case(lambda: codes(RelaxedCategorical, temperature=0.7), theta=15, phi=16),
    "flow": Case(lambda: flow_pair(bijection()), theta=0, phi=0, shared=6 + 28 + 15, point=True, certain=True),
    "augmented flow": Case(lambda: flow_pair(augmented()), theta=0, phi=0, shared=26 + 8, point=True),
    "flows for z": Case(flows_for_z, theta=9 + 4, phi=-1),
    "AutoNormal": Case(_auto(AutoNormal), theta=0, phi=8, joint=True),
    "AutoMultivariateNormal": Case(_auto(AutoMultivariateNormal), theta=0, phi=4 + 4 + 16, joint=True),
    "AutoLowRank": Case(_auto(AutoLowRankMultivariateNormal), theta=0, phi=4 + 4 + 8, joint=True),
    "AutoDelta": Case(_auto(AutoDelta), theta=0, phi=4, joint=True),
    "AutoIAFNormal": Case(_auto(AutoIAFNormal), theta=0, phi=-1, joint=True),
    "misaligned": Case(_auto(AutoNormal, misaligned), theta=0, phi=8, joint=True, vectorizes=False),
    "PyroSample": Case(_regression, theta=0, phi=8, joint=True, vectorizes=False, supervised=True, observed=("y",)),
    "crossed plates": Case(_auto(AutoNormal, crossed_plates), theta=0, phi=-1, joint=True),
}


def data_for(case: Case, n: int = 20, dtype: torch.dtype = torch.float32) -> Any:
    """Rows that suit a case."""
    x = rows(n, dtype=dtype)
    return (x, x.sum(-1)) if case.supervised else x
