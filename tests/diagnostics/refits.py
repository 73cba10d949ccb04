"""Ways of fitting a mean that all data share, where the posterior is known; a file that other processes import."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from schools import centred, non_centred
from torch import Tensor

import ppl_vae
from ppl_vae.pair import Pair

NOISE = 2.0


def model(x: Tensor) -> None:
    """A mean in two dimensions, and a spread that is known."""
    m = pyro.sample("m", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, NOISE).to_event(1), obs=x)


def normal(x: Tensor, width: float = 1.0, shift: float = 0.0) -> Pair:
    """The posterior of the mean given all rows, with so many of its sds, shifted by so many."""
    precision = 1.0 + len(x) / NOISE**2

    def guide(x: Tensor) -> None:
        center = x.sum(0) / NOISE**2 / precision + shift * precision**-0.5
        pyro.sample("m", dist.Normal(center, width * precision**-0.5).to_event(1))

    return Pair(model, guide).initialize(x)


def exactly(x: Tensor, seed: int) -> Pair:
    """Bayes' rule."""
    return normal(x)


def too_narrow(x: Tensor, seed: int) -> Pair:
    """Half the standard deviation."""
    return normal(x, width=0.5)


def shifted(x: Tensor, seed: int) -> Pair:
    """A standard deviation too high."""
    return normal(x, shift=1.0)


def noisily(x: Tensor, seed: int) -> Pair:
    """A fit with noise of its own from the global generator, and with a parameter in Pyro's global store."""
    offset = pyro.param("offset", lambda: 0.01 * torch.randn(()))
    return normal(x, shift=float(offset.detach()))


def by_fit(x: Tensor, seed: int) -> ppl_vae.Fit:
    """A real one."""
    return ppl_vae.fit(model, AutoNormal(model), x, seed=seed, progress=False)


def in_vain(x: Tensor, seed: int) -> Pair:
    """One that ends in an error."""
    raise ArithmeticError("no optimum")


def centred_schools(data: tuple[Tensor, Tensor], seed: int) -> ppl_vae.Fit:
    """Eight schools as they are written first, by mean field."""
    return ppl_vae.fit(centred, AutoNormal(centred), data, seed=seed, progress=False)


def non_centred_schools(data: tuple[Tensor, Tensor], seed: int) -> ppl_vae.Fit:
    """The same with the effects in units of their spread."""
    return ppl_vae.fit(non_centred, AutoNormal(non_centred), data, seed=seed, progress=False)
