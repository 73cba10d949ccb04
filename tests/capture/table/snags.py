"""Python that a recorded step does not repeat, or repeats wrongly: rows that are traps, some beside a harmless twin.

The rows with ``random`` and numpy's draws use their global generators, as users do: those two are not fixed by torch's
seed, and a test that compares steps must seed them too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from .base import CLASSES, DIM, LATENT, ROWS, Problem, diagonal_normal, mlp, row, standard_normal, unit_normal


class Model(PyroModule):
    """A VAE's generative half, with hooks for a trap: one before it, one on z's weight, one on x's location."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(LATENT, DIM)

    def before(self, x: Tensor) -> Tensor:
        return x

    def weight(self) -> float:
        return 1.0

    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> None:
        x = self.before(x)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=self.weight()):
                z = pyro.sample("z", standard_normal())
            pyro.sample("x", unit_normal(self.location(z)), obs=x)


class Guide(PyroModule):
    """The other half, without a trap."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(DIM, 2 * LATENT)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", diagonal_normal(self.encoder(x)))


def trap(model: Callable[[], Any]) -> Callable[[], Problem]:
    return lambda: Problem(model(), Guide(), Trace_ELBO(), (torch.randn(ROWS, DIM),))


# Values that Python reads


class Branch(Model):
    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + 1 if z.mean().item() > 0 else self.decoder(z)


class TruthValue(Model):
    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + 1 if z.mean() > 0 else self.decoder(z)  # the same, without a word


class ShapeOnly(Model):
    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + 1 if len(z) > 2 else self.decoder(z)  # harmless: shapes are part of the call


# Shapes


def selected_rows() -> Problem:
    """How many rows are left depends on their values."""

    def model(x: Tensor) -> None:
        x = x[x[:, 0] > 0]
        mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 5.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(DIM))
        pyro.sample("mean", dist.Normal(loc, 0.5).to_event(1))

    return Problem(model, guide, Trace_ELBO(), (torch.randn(ROWS, DIM),))


class MaskedValues(Model):
    def before(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[x > 1] = x[x > 1].tanh()  # as many values as the mask has ones
        return x


class MaskedFill(Model):
    def before(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[x > 1] = 1.0  # harmless: one number wherever the mask is, and the shape stays
        return x


def one_hot() -> Problem:
    """Harmless, though ``one_hot`` looks at its argument's values to check them."""
    encoder, decoder = mlp(DIM + CLASSES, 2 * LATENT), mlp(LATENT + CLASSES, DIM)

    def with_class(v: Tensor, y: Tensor) -> Tensor:
        return torch.cat([v, nn.functional.one_hot(y, CLASSES).to(v)], -1)

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal())
            pyro.sample("x", unit_normal(decoder(with_class(z, y))), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", diagonal_normal(encoder(with_class(x, y))))

    return Problem(model, guide, Trace_ELBO(), (torch.randn(ROWS, DIM), torch.randint(CLASSES, (ROWS,))))


# Noise that is not torch's


class PythonRandom(Model):
    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + 0.1 * random.random()


class NumpyRandom(Model):
    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + 0.1 * np.random.rand()


class NumpyGenerator(Model):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + torch.from_numpy(self.generator.random((ROWS, DIM))).float()


class TorchRandom(Model):
    def location(self, z: Tensor) -> Tensor:
        return self.decoder(z) + 0.1 * torch.randn_like(z[..., :1])  # harmless: torch's own generator


# What a call leaves behind


class CountsCalls(Model):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def weight(self) -> float:
        self.calls += 1
        return min(1.0, self.calls / 10)  # annealing by a count of one's own


class Running(Model):
    def __init__(self) -> None:
        super().__init__()
        self.running = torch.zeros(DIM)

    def before(self, x: Tensor) -> Tensor:
        self.running = 0.9 * self.running + 0.1 * x.mean(0)
        return x - self.running


class RunningBuffer(Running):
    def __init__(self) -> None:
        super().__init__()
        del self.running
        self.register_buffer("running", torch.zeros(DIM))


class RunningInPlace(RunningBuffer):
    def before(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.running.mul_(0.9).add_(0.1 * x.mean(0))  # harmless: the tensor stays where it is, as in BatchNorm
        return x - self.running


ROWS_OF_SNAGS = [
    row("item() and a branch", trap(Branch), falls_back="item|branch|value"),
    row("a branch on a tensor", trap(TruthValue), falls_back="item|branch|bool|value"),
    row("a branch on a shape", trap(ShapeOnly)),
    row("rows selected by a mask", selected_rows, falls_back="shape"),
    row("values selected by a mask", trap(MaskedValues), falls_back="shape"),
    row("a number put where a mask is", trap(MaskedFill)),
    row("one_hot", one_hot),
    row("Python's random", trap(PythonRandom), falls_back="random"),
    row("numpy's random", trap(NumpyRandom), falls_back="random"),
    row("a generator of numpy", trap(NumpyGenerator), falls_back="random|generator|numpy"),
    row("torch's random outside a site", trap(TorchRandom)),
    row("calls counted", trap(CountsCalls), falls_back="calls"),
    row("running mean, rebound", trap(Running), falls_back="running"),
    row("running mean, a buffer rebound", trap(RunningBuffer), falls_back="running"),
    row("running mean, in place", trap(RunningInPlace)),
]
