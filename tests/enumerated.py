"""Pairs with discrete latents that are enumerated, in the guide or in the model alone, as Pyro's users write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import one_hot

MARK = {"enumerate": "parallel"}
DIM, CLASSES, LATENT = 3, 4, 2


class Discrete(nn.Module):
    """A pair of methods, registered by ``pyro.module`` as in Pyro's tutorials."""

    nesting = 1
    max_rows: int | None = None  # the memory bound that the guide sets

    @property
    def mark(self) -> dict[str, object]:
        return MARK if self.max_rows is None else {**MARK, "max_rows": self.max_rows}


def noise(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, dtype=torch.float64))


def linear(fan_in: int, fan_out: int) -> nn.Linear:
    return nn.Linear(fan_in, fan_out, dtype=torch.float64)


def classes(c: Tensor, like: Tensor, count: int = CLASSES) -> Tensor:
    """One-hot classes beside x, broadcast: (..., N, K + D)."""
    code = one_hot(c.long(), count).to(like)
    shape = torch.broadcast_shapes(code.shape[:-1], like.shape[:-1])
    return torch.cat([code.expand(*shape, -1), like.expand(*shape, -1)], -1)


class Plain(Discrete):
    """c, and x given c."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.prior, self.encoder = noise(CLASSES, DIM), noise(CLASSES), linear(DIM, CLASSES)

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Normal(self.loc[c], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=self.encoder(x)), infer=self.mark)


class NormalGivenClass(Plain):
    """c, then z given c on both sides, then x given z."""

    def __init__(self) -> None:
        super().__init__()
        self.center, self.decoder = noise(CLASSES, LATENT), linear(LATENT, DIM)
        self.posterior = linear(CLASSES + DIM, 2 * LATENT)

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.prior))
            z = pyro.sample("z", dist.Normal(self.center[c], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.encoder(x)), infer=self.mark)
            loc, log_scale = self.posterior(classes(c, x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class ClassGivenNormal(NormalGivenClass):
    """The guide draws z first, and c given z; the model the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = linear(DIM, LATENT), linear(LATENT, CLASSES)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.first(x), 0.5).to_event(1))
            pyro.sample("c", dist.Categorical(logits=self.second(z)), infer=self.mark)


class Chained(Plain):
    """Two classes, the second given the first on both sides; x given the second alone."""

    def __init__(self) -> None:
        super().__init__()
        self.moves, self.posterior = noise(CLASSES, 3), linear(CLASSES + DIM, 3)
        self.loc = noise(3, DIM)

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.prior))
            d = pyro.sample("d", dist.Categorical(logits=self.moves[c]))
            pyro.sample("x", dist.Normal(self.loc[d], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.encoder(x)), infer=MARK)
            pyro.sample("d", dist.Categorical(logits=self.posterior(classes(c, x))), infer=self.mark)


class InPlate(Plain):
    """A class for each column of x: the latents stand in a plate of their own, and the likelihood factorizes."""

    nesting = 2

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.encoder = noise(DIM, CLASSES), linear(DIM, DIM * CLASSES)

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        columns, data = pyro.plate("columns", DIM, dim=-2), pyro.plate("data", len(x), dim=-1)
        with data, columns:
            c = pyro.sample("c", dist.Categorical(logits=self.prior))
            loc = (one_hot(c, CLASSES).to(self.loc) * self.loc.unsqueeze(1)).sum(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x.T)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        logits = self.encoder(x).reshape(len(x), DIM, CLASSES).transpose(0, 1)
        with pyro.plate("data", len(x), dim=-1), pyro.plate("columns", DIM, dim=-2):
            pyro.sample("c", dist.Categorical(logits=logits), infer=self.mark)


class Masked(NormalGivenClass):
    """The class of every other row is given: a mask takes the latent one away there."""

    def _given(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(x))
        return rows % 2 == 0, rows % CLASSES

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        given, label = self._given(x)
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=given):
                pyro.sample("label", dist.Categorical(logits=self.prior), obs=label)
            with poutine.mask(mask=~given):
                c = pyro.sample("c", dist.Categorical(logits=self.prior))
            z = pyro.sample("z", dist.Normal(self.center[torch.where(given, label, c)], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        given, label = self._given(x)
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=~given):
                c = pyro.sample("c", dist.Categorical(logits=self.encoder(x)), infer=self.mark)
            loc, log_scale = self.posterior(classes(torch.where(given, label, c), x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Mixture(NormalGivenClass):
    """A mixture over z whose component the model alone knows."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = linear(DIM, 2 * LATENT)

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.prior), infer=MARK)
            z = pyro.sample("z", dist.Normal(self.center[c], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.slope(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class ManyRows(Plain):
    """A mixture of all columns of x at once: the component stands outside the plate of the columns."""

    nesting = 2

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.prior), infer=MARK)
            with pyro.plate("columns", DIM, dim=-2):
                loc = self.loc[c].movedim(-1, -2) if c.dim() < 2 else self.loc[c.squeeze(-2)].movedim(-1, -2)
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x.T)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)


class Bits(Discrete):
    """Eight Bernoulli latents as one site, which Pyro does not enumerate."""

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.prior, self.encoder = noise(bits), linear(DIM, bits)
        self.decoder = nn.Sequential(linear(bits, 6), nn.Tanh(), linear(6, DIM))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.prior).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(b), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer=self.mark)


@dataclass(frozen=True)
class Case:
    """A pair, and whether Pyro's own enumeration serves as its oracle."""

    make: Callable[[], Discrete]
    by_pyro: bool = True
    exact: bool = False  # no noise is left


CASES = {
    "plain": Case(Plain, exact=True),
    "normal given class": Case(NormalGivenClass),
    "class given normal": Case(ClassGivenNormal),
    "chained": Case(Chained, exact=True),
    "in a plate": Case(InPlate, exact=True),
    "masked": Case(Masked),
    "mixture": Case(Mixture),
    "many rows": Case(ManyRows, exact=True),
    "bits": Case(Bits, by_pyro=False, exact=True),
}


def made(name: str) -> Discrete:
    """The pair of a case, from one start."""
    torch.manual_seed(0)
    return CASES[name].make()
