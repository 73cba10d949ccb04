"""The easy half: posteriors that are nearly normal, with raw columns and starts that are far away."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from hard_posteriors.problem import Problem, guide_of, product, tensor


def columns(rng: np.random.Generator, rows: int, size: int, *, raw: bool, correlated: bool) -> Tensor:
    """A design (N, D), the first column 1; raw: in odd units, with means that are not 0."""
    x = rng.standard_normal((rows, size - 1))
    if correlated:
        shared = rng.standard_normal((rows, 1))
        x = math.sqrt(0.3) * x + math.sqrt(0.7) * shared
    if raw:
        x = (x + rng.normal(0, 5, size - 1)) * 10.0 ** rng.uniform(-3, 3, size - 1)
    return torch.cat([torch.ones(rows, 1, dtype=torch.float64), tensor(x)], 1)


def normal_answer(x: Tensor, y: Tensor, prior_sd: Tensor, noise: float) -> tuple[Tensor, Tensor, float]:
    """Mean, precision and log Z of a linear regression with known noise."""
    precision = x.T @ x / noise**2 + torch.diag(prior_sd**-2.0)
    mean = torch.linalg.solve(precision, x.T @ y / noise**2)
    rest = (y - x @ mean).square().sum() / noise**2 + (mean / prior_sd).square().sum()
    log_det = torch.linalg.slogdet(precision).logabsdet + 2 * prior_sd.log().sum()
    log_z = -0.5 * (rest + log_det) - len(y) * (math.log(noise) + 0.5 * math.log(2 * math.pi))
    return mean, precision, float(log_z)


def conjugate(rng: np.random.Generator) -> Problem:
    """Known noise: the posterior is normal. Mean field only where the columns are orthogonal."""
    full, size, rows = bool(rng.random() < 0.7), int(rng.integers(2, 9)), int(rng.integers(20, 200))
    if full:
        x = columns(rng, rows, size, raw=True, correlated=bool(rng.random() < 0.5))
    else:
        x = torch.linalg.qr(tensor(rng.standard_normal((rows, size)))).Q * tensor(10 ** rng.uniform(-1, 3, size))
    noise = float(10 ** rng.uniform(-1, 2))
    prior_sd = 1000.0 * noise / x.square().mean(0).sqrt()
    y = x @ (tensor(rng.standard_normal(size)) * prior_sd / 300) + noise * tensor(rng.standard_normal(rows))
    mean, precision, log_z = normal_answer(x, y, prior_sd, noise)

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(size), prior_sd).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(product(x, beta), noise), obs=y)

    best = log_z
    if not full:
        best -= 0.5 * float(precision.diagonal().log().sum() - torch.linalg.slogdet(precision).logabsdet)
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    return Problem(model, (x, y), guide_of(rng, model, {"beta": mean}, {"beta": sd}, full=full), best=best)


def unknown_noise(rng: np.random.Generator) -> Problem:
    """Wide priors on raw, correlated columns, and a half-Cauchy one on the noise."""
    size, rows = int(rng.integers(2, 8)), int(rng.integers(40, 300))
    x = columns(rng, rows, size, raw=True, correlated=bool(rng.random() < 0.5))
    noise = float(10 ** rng.uniform(-1, 2))
    sd = 100.0 * noise / x.square().mean(0).sqrt()
    y = x @ (tensor(rng.standard_normal(size)) * sd / 50) + noise * tensor(rng.standard_normal(rows))

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(size), sd).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(x.new_tensor(2.5)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(product(x, beta), sigma), obs=y)

    mean, precision, _ = normal_answer(x, y, sd, noise)
    spread = torch.linalg.inv(precision).diagonal().sqrt()
    typical = {"beta": mean, "sigma": tensor(noise)}
    guide = guide_of(rng, model, typical, {"beta": spread, "sigma": None}, full=True)
    return Problem(model, (x, y), guide, near=torch.cat([mean, tensor([math.log(noise)])]).unsqueeze(0))


def logistic(rng: np.random.Generator) -> Problem:
    """A logistic regression with N(0, 1) priors on standardized columns."""
    size, rows = int(rng.integers(2, 9)), int(rng.integers(150, 400))
    x = columns(rng, rows, size, raw=False, correlated=bool(rng.random() < 0.5))
    y = tensor(rng.random(rows) < torch.sigmoid(x @ tensor(rng.standard_normal(size))).numpy())

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(size), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=product(x, beta)), obs=y)

    guide = guide_of(rng, model, {"beta": torch.zeros(size)}, {"beta": torch.full((size,), 0.2)}, full=True)
    return Problem(model, (x, y), guide, near=torch.zeros(1, size, dtype=torch.float64))


def poisson(rng: np.random.Generator) -> Problem:
    """Counts by a log-linear rate."""
    size, rows = int(rng.integers(2, 6)), int(rng.integers(50, 200))
    x = columns(rng, rows, size, raw=False, correlated=bool(rng.random() < 0.5))
    beta = tensor(rng.normal(0, 0.4, size))
    beta[0] += 1
    y = tensor(rng.poisson((x @ beta).exp().numpy()))

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(size), 2.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(product(x, beta).exp()), obs=y)

    guide = guide_of(rng, model, {"beta": beta}, {"beta": torch.full((size,), 0.01)}, full=True)
    return Problem(model, (x, y), guide, near=beta.unsqueeze(0))


def scales(rng: np.random.Generator) -> Problem:
    """Location and scale of a few groups of numbers, with half-Cauchy priors and enough data; mean field or full."""
    groups, rows = int(rng.integers(1, 4)), int(rng.integers(30, 120))
    unit = float(10 ** rng.uniform(-2, 3))
    true = tensor(np.exp(rng.normal(0, 1, groups))) * unit
    y = true * tensor(rng.standard_normal((rows, groups))) + 3 * unit

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(groups), 10 * unit).to_event(1))
        tau = pyro.sample("tau", dist.HalfCauchy(y.new_full((groups,), unit)).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, tau).to_event(1), obs=y)

    typical = {"mu": y.mean(0), "tau": y.std(0)}
    guide = guide_of(rng, model, typical, {"mu": y.std(0) / math.sqrt(rows), "tau": None})
    return Problem(model, (y,), guide, near=torch.cat([y.mean(0), y.std(0).log()]).unsqueeze(0))


def conjugate_rates(rng: np.random.Generator) -> Problem:
    """A Gamma rate of Poisson counts and a Beta share of trials: posteriors in closed form, independent."""
    counts, trials = rng.poisson(rng.uniform(1, 20), int(rng.integers(10, 60))), int(rng.integers(60, 400))
    won = float(rng.binomial(trials, rng.uniform(0.15, 0.85)))
    y = tensor(counts)

    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(1.0), y.new_tensor(0.1)))
        share = pyro.sample("share", dist.Beta(y.new_tensor(1.0), y.new_tensor(1.0)))
        pyro.sample("won", dist.Binomial(trials, share), obs=y.new_tensor(won))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    a, b = 1 + float(y.sum()), 0.1 + len(y)
    near = tensor([[math.log(a / b), math.log((won + 1) / (trials - won + 1))]])
    sd = {"rate": None, "share": tensor(0.0)}
    guide = guide_of(rng, model, {"rate": tensor(a / b), "share": tensor(1e-3)}, sd)
    return Problem(model, (y,), guide, near=near)


ORDINARY = (
    ("regression, noise known", 22, conjugate),
    ("regression, noise unknown", 22, unknown_noise),
    ("logistic", 16, logistic),
    ("Poisson", 14, poisson),
    ("locations and scales", 14, scales),
    ("Gamma and Beta", 12, conjugate_rates),
)
