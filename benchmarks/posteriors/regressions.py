"""Linear regressions on raw columns: as a person writes them, with one flat or wide prior a coefficient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from posteriors.posterior import Data, Posterior, double, product
from ppl_vae.distributions import Flat


def kidscore(iq: Tensor, score: Tensor) -> None:
    """Test scores of children by the IQ of their mothers."""
    intercept = pyro.sample("intercept", Flat(constraints.real))
    slope = pyro.sample("slope", Flat(constraints.real))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("rows", len(score)):
        pyro.sample("score", dist.Normal(intercept + slope * iq, sigma), obs=score)


def logearn(height: Tensor, log_earn: Tensor) -> None:
    """Log earnings by height in inches."""
    intercept = pyro.sample("intercept", Flat(constraints.real))
    slope = pyro.sample("slope", Flat(constraints.real))
    sigma = pyro.sample("sigma", Flat(constraints.positive))
    with pyro.plate("rows", len(log_earn)):
        pyro.sample("log_earn", dist.Normal(intercept + slope * height, sigma), obs=log_earn)


def flat_regression(x: Tensor, y: Tensor) -> None:
    """Flat priors everywhere (mesquite, nes); the first column of x is 1."""
    beta = pyro.sample("beta", Flat(constraints.real, batch_shape=(x.shape[1],)).to_event(1))
    sigma = pyro.sample("sigma", Flat(constraints.positive))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(product(x, beta), sigma), obs=y)


def blr(x: Tensor, y: Tensor) -> None:
    """Bayesian linear regression without an intercept."""
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(product(x, beta), sigma), obs=y)


def autoregression(lags: Tensor, y: Tensor) -> None:
    """A series by its own last values, the nearest first."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(lags.new_zeros(lags.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(alpha + product(lags, beta), sigma), obs=y)


def columns(*of: Any) -> Tensor:
    """An intercept and these columns, (N, 1 + len(of))."""
    first = torch.ones(len(of[0]), dtype=torch.float64)
    return torch.stack([first, *(double(column) for column in of)], -1)


def _mesquite(d: Mapping[str, Any]) -> Data:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    return columns(*(d[name] for name in names)), double(d["weight"])


def _nes(d: Mapping[str, Any]) -> Data:
    ages = ([age == group for age in d["age_discrete"]] for group in (2, 3, 4))
    x = columns(d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"])
    return x, double(d["partyid7"])


def _lagged(d: Mapping[str, Any]) -> Data:
    y, order = double(d["y"]), d["K"]
    return y.unfold(0, order, 1)[:-1].flip(-1), y[order:]


SIMPLE = {"intercept": constraints.real, "slope": constraints.real, "sigma": constraints.positive}
VECTOR = {"beta": constraints.real, "sigma": constraints.positive}

REGRESSIONS = (
    Posterior(
        "kidscore_momiq",
        "kidiq-kidscore_momiq.json",
        kidscore,
        lambda d: (double(d["mom_iq"]), double(d["kid_score"])),
        SIMPLE,
    ),
    Posterior(
        "logearn_height",
        "earnings-logearn_height.json",
        logearn,
        lambda d: (double(d["height"]), double(d["earn"]).log()),
        SIMPLE,
    ),
    Posterior("mesquite", "mesquite-mesquite.json", flat_regression, _mesquite, VECTOR, sizes={"beta": 7}),
    Posterior("nes", "nes2000-nes.json", flat_regression, _nes, VECTOR, sizes={"beta": 9}),
    Posterior(
        "sblri",
        "sblri-blr.json",
        blr,
        lambda d: (double(d["X"]), double(d["y"])),
        VECTOR,
        constant=math.log(2),
        because="sigma ~ normal(0, 10) on positive numbers stands in Stan without the 2 of a half-normal",
        sizes={"beta": 5},
    ),
    Posterior(
        "arK",
        "arK-arK.json",
        autoregression,
        _lagged,
        {"alpha": constraints.real, **VECTOR},
        sizes={"beta": 5},
    ),
)
