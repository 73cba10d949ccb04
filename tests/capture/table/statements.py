"""What stands around sample statements (plates, scales, masks), and what models are called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from .base import CLASSES, DIM, LATENT, ROWS, Problem, diagonal_normal, mlp, row, standard_normal, unit_normal

SUBSAMPLE = 8


def pair(latent: Callable[..., Any], observed: Callable[..., Any]) -> tuple[Any, Any]:
    """A VAE with a context around z, on both sides, and one around x, each made from the arguments after x."""
    encoder, decoder = mlp(DIM, 2 * LATENT), mlp(LATENT, DIM)

    def model(x: Tensor, *args: Any, **kwargs: Any) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            with latent(*args, **kwargs):
                z = pyro.sample("z", standard_normal())
            with observed(*args, **kwargs):
                pyro.sample("x", unit_normal(decoder(z)), obs=x)

    def guide(x: Tensor, *args: Any, **kwargs: Any) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)), latent(*args, **kwargs):
            pyro.sample("z", diagonal_normal(encoder(x)))

    return model, guide


def weighted(beta: Any, *, by_keyword: bool = False) -> Problem:
    """KL annealing as in Pyro's examples: beta scales z on both sides."""
    model, guide = pair(lambda beta: poutine.scale(scale=beta), lambda beta: poutine.scale(scale=1.0))
    x = torch.randn(ROWS, DIM)
    if by_keyword:
        return Problem(model, guide, Trace_ELBO(), (x,), {"beta": beta})
    return Problem(model, guide, Trace_ELBO(), (x, beta))


def masked(mask: Any) -> Problem:
    """Rows that do not count."""
    model, guide = pair(lambda mask: poutine.mask(mask=mask), lambda mask: poutine.mask(mask=mask))
    return Problem(model, guide, Trace_ELBO(), (torch.randn(ROWS, DIM), mask))


def masked_distribution() -> Problem:
    """Entries that do not count, by a mask on the distribution itself."""
    encoder, decoder = mlp(DIM, 2 * LATENT), mlp(LATENT, DIM)

    def model(x: Tensor, seen: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal())
            pyro.sample("x", dist.Normal(decoder(z), 1.0).mask(seen).to_event(1), obs=x)

    def guide(x: Tensor, seen: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", diagonal_normal(encoder(torch.where(seen, x, 0.0))))

    return Problem(model, guide, Trace_ELBO(), (torch.randn(ROWS, DIM), torch.rand(ROWS, DIM) < 0.7))


def labelled(y: Tensor | None, *, by_keyword: bool = False) -> Problem:
    """A label that may be missing: without it the guide draws one."""
    encoder, classifier = mlp(DIM, 2 * LATENT), mlp(DIM, CLASSES)
    decoder = mlp(LATENT + CLASSES, DIM)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(CLASSES)), obs=y)
            z = pyro.sample("z", standard_normal())
            pyro.sample("x", unit_normal(decoder(torch.cat([z, y], -1))), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        pyro.module("classifier", classifier)
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            pyro.sample("z", diagonal_normal(encoder(x)))

    x = torch.randn(ROWS, DIM)
    if by_keyword:
        return Problem(model, guide, TraceGraph_ELBO(), (x,), {"y": y})
    return Problem(model, guide, TraceGraph_ELBO(), (x, y))


def some_labels() -> Tensor:
    return torch.eye(CLASSES)[torch.randint(CLASSES, (ROWS,))]


def subsampled(loss: Any) -> Problem:
    """The plate draws its own mini-batch, anew in each step; the guide draws, the model is given the same rows."""
    x = torch.randn(2 * SUBSAMPLE, DIM)
    encoder, decoder = mlp(DIM, 2 * LATENT), mlp(LATENT, DIM)

    def model() -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x), subsample_size=SUBSAMPLE) as index:
            z = pyro.sample("z", standard_normal())
            pyro.sample("x", unit_normal(decoder(z)), obs=x[index])

    def guide() -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), subsample_size=SUBSAMPLE) as index:
            pyro.sample("z", diagonal_normal(encoder(x[index])))

    return Problem(model, guide, loss)


def given_subsample() -> Problem:
    """The rows of a mini-batch by their numbers, as an argument; ``pyro.subsample`` picks them."""
    x = torch.randn(2 * SUBSAMPLE, DIM)

    def model(index: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 5.0).to_event(1))
        with pyro.plate("data", len(x), subsample=index):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=pyro.subsample(x, event_dim=1))

    return Problem(model, AutoNormal(model), Trace_ELBO(), (torch.randperm(len(x))[:SUBSAMPLE],))


def subsampled_autoguide() -> Problem:
    """AutoNormal holds a row of parameters for every datum, and takes those of the mini-batch."""
    x = torch.randn(2 * SUBSAMPLE, DIM)

    def plates() -> Any:
        return pyro.plate("data", len(x), subsample_size=SUBSAMPLE)

    def model() -> None:
        with plates() as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
            pyro.sample("x", unit_normal(z), obs=x[index])

    return Problem(model, AutoNormal(model, create_plates=plates), Trace_ELBO())


def looped_plate() -> Problem:
    """A plate that is a Python loop: a site for each round."""
    decoder = mlp(1, DIM)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        for i in pyro.plate("groups", 3):
            z = pyro.sample(f"z_{i}", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample(f"x_{i}", unit_normal(decoder(z)), obs=x[i])

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(3, 1))
        for i in pyro.plate("groups", 3):
            pyro.sample(f"z_{i}", dist.Normal(loc[i], 0.5).to_event(1))

    return Problem(model, guide, Trace_ELBO(), (torch.randn(3, DIM),))


def crossed_plates() -> Problem:
    """A plate of columns left of the data plate."""

    def model(x: Tensor) -> None:
        columns, data = pyro.plate("columns", DIM, dim=-2), pyro.plate("data", len(x), dim=-1)
        with columns:
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with data:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with columns, data:
            pyro.sample("x", dist.Normal(w * z, 1.0), obs=x.T)

    return Problem(model, AutoNormal(model), Trace_ELBO(), (torch.randn(ROWS, DIM),))


def factor_and_deterministic() -> Problem:
    """``pyro.deterministic`` inside and outside the plate, and a factor for every row."""

    def model(x: Tensor) -> None:
        scale = pyro.deterministic("scale", pyro.param("log_scale", torch.zeros(())).exp())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
            loc = pyro.deterministic("loc", z.tanh(), event_dim=1)
            pyro.factor("penalty", -0.1 * z.square().sum(-1))
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", 0.1 * torch.eye(DIM))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, 0.7).to_event(1))

    return Problem(model, guide, Trace_ELBO(), (torch.randn(ROWS, DIM),))


def reparametrized() -> Problem:
    """A handler that rewrites a site of the model before the guide is made."""

    @poutine.reparam(config={"effect": LocScaleReparam()})
    def model(x: Tensor) -> None:
        spread = pyro.sample("spread", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            effect = pyro.sample("effect", dist.Normal(0.0, spread))
            pyro.sample("x", dist.Normal(effect.unsqueeze(-1), 1.0).expand([len(x), DIM]).to_event(1), obs=x)

    return Problem(model, AutoNormal(model), Trace_ELBO(), (torch.randn(ROWS, DIM),))


ROWS_OF_STATEMENTS = [
    row("subsampling plate", lambda: subsampled(Trace_ELBO())),
    row("subsampling plate, particles looped", lambda: subsampled(Trace_ELBO(num_particles=2))),
    row("subsampling plate, AutoNormal", subsampled_autoguide),
    row("plate with a given subsample", given_subsample),
    row("plate as a loop", looped_plate),
    row("crossed plates", crossed_plates),
    row("scale, a number", lambda: weighted(0.5)),
    row("scale, a tensor argument", lambda: weighted(torch.tensor(0.5))),
    row("scale, a tensor keyword argument", lambda: weighted(torch.tensor(0.5), by_keyword=True)),
    row("mask, a tensor argument", lambda: masked(torch.rand(ROWS) < 0.7)),
    row("mask, a truth value", lambda: masked(True)),
    row("mask on the entries of a distribution", masked_distribution),
    row("a label, tensor argument", lambda: labelled(some_labels())),
    row("a label, tensor keyword argument", lambda: labelled(some_labels(), by_keyword=True)),
    row("a label, None", lambda: labelled(None)),
    row("a label, None as a keyword argument", lambda: labelled(None, by_keyword=True)),
    row("factor and deterministic", factor_and_deterministic),
    row("LocScaleReparam", reparametrized),
]
