"""Models whose posterior is known, under guides that are it, and under guides that are not, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from enumerated import MARK
from pairs import LATENT, LinearGaussian, rows
from torch import Tensor

from ppl_vae.pair import Pair

LINEAR = LinearGaussian(exact=True)
LOC = torch.tensor([[-1.0, 0.0], [0.5, 0.5], [1.0, -1.0]])
SHARES = torch.tensor([0.5, 0.3, 0.2])


def normal_guide(width: float = 1.0, shift: float = 0.0) -> Callable[[Tensor], None]:
    """The posterior of LINEAR, with so many times its sd, shifted by so many sds."""

    def guide(x: Tensor) -> None:
        q = LINEAR.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(q.mean + shift * q.stddev, scale_tril=width * q.scale_tril))

    return guide


def prior_guide(x: Tensor) -> None:
    """A guide that ignores the datum."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))


def linear(guide: Callable[[Tensor], None] | None = None) -> Pair:
    """LINEAR under a guide, by default its posterior."""
    return Pair(LINEAR.model, guide or normal_guide()).initialize(rows(20))


def classes_model(x: Tensor) -> None:
    """One of three classes a datum, and x around its location."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES))
        pyro.sample("x", dist.Normal(LOC[c], 1.0).to_event(1), obs=x)


def class_logits(x: Tensor) -> Tensor:
    """Log p(c, x) of every class, (N, 3)."""
    return SHARES.log() + dist.Normal(LOC, 1.0).to_event(1).log_prob(x.unsqueeze(-2))


def classes(power: float = 1.0, tilt: float = 0.0) -> Pair:
    """The model of classes under its exact posterior by enumeration, raised to a power, the first class favoured."""

    def guide(x: Tensor) -> None:
        logits = power * class_logits(x) + tilt * torch.tensor([1.0, 0.0, 0.0])
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=logits))

    return Pair(classes_model, guide).initialize(rows(20, dim=2, dtype=torch.float32))


def summed() -> Pair:
    """A class that the model sums out, z around its location, and the exact posterior of z, a mixture."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(SHARES), infer=MARK)
            z = pyro.sample("z", dist.Normal(4.0 * c - 4.0, 1.0))
            pyro.sample("x", dist.Normal(z, 2.0), obs=x)

    def guide(x: Tensor) -> None:
        centers = torch.tensor([-4.0, 0.0, 4.0])
        logits = SHARES.log() + dist.Normal(centers, 5.0**0.5).log_prob(x.unsqueeze(-1))
        each = dist.Normal((4 * centers + x.unsqueeze(-1)) / 5, 0.8**0.5)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=logits), each))

    return Pair(model, guide).initialize(torch.linspace(-5, 5, 20))


def regression(*, packed: bool = False) -> tuple[Pair, Any]:
    """A slope of each datum on a covariate, under the exact guide; ``packed``: both are columns of one argument."""

    def model(t: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(t)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z * t, 0.5), obs=y)

    def guide(t: Tensor, y: Tensor) -> None:
        precision = 1 + t**2 / 0.25
        with pyro.plate("data", len(t)):
            pyro.sample("z", dist.Normal(t * y / 0.25 / precision, precision**-0.5))

    t = torch.linspace(0.1, 3.0, 17)
    data = (t, 2.0 * t + 0.3)
    if not packed:
        return Pair(model, guide).initialize(data), data
    return (
        Pair(lambda x: model(x[:, 0], x[:, 1]), lambda x: guide(x[:, 0], x[:, 1])),
        torch.stack(data, 1),
    )


def holes() -> tuple[Pair, Any]:
    """Two looks at z, of which some are missing, under the exact guide."""

    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            seen = dist.Normal(z.unsqueeze(-1), torch.tensor([0.5, 1.0])).mask(mask).to_event(1)
            pyro.sample("x", seen, obs=torch.where(mask, x, 0.0))

    def guide(x: Tensor, mask: Tensor) -> None:
        weight = mask / torch.tensor([0.25, 1.0])
        precision = 1 + weight.sum(-1)
        with pyro.plate("data", len(x)):
            loc = (weight * torch.where(mask, x, 0.0)).sum(-1) / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5))

    mask = torch.rand(25, 2, generator=torch.Generator().manual_seed(0)) > 0.4
    data = {"x": torch.ones(25, 2).cumsum(0).masked_fill(~mask, torch.nan), "mask": mask}
    return Pair(model, guide), data


def decoded_classes() -> Pair:
    """Three classes behind a network, in float32: the log density of one class has other roundings in each run."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(3, 784, generator=generator), 0.02 * torch.randn(784, 784, generator=generator)

    def decode(code: Tensor) -> Tensor:
        return (code @ first).tanh() @ second

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(SHARES))
            pyro.sample("x", dist.Normal(decode(c), 3.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        each = dist.Normal(decode(torch.eye(3)), 3.0).to_event(1).log_prob(x.unsqueeze(-2))
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.OneHotCategorical(logits=SHARES.log() + each))

    return Pair(model, guide).initialize(torch.randn(20, 784, generator=generator))
