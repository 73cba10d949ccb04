"""Posteriors that no normal is near: funnels, bananas, heavy tails, ridges, improper ones; and many dimensions."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from hard_posteriors.ordinary import columns
from hard_posteriors.problem import DRAWS, Exact, Problem, guide_of, on_grid, product, side_by_side, tensor
from ppl_vae.distributions import Flat


def funnel(rng: np.random.Generator) -> Problem:
    """Neal's funnel in 2 to 10 dimensions."""
    size, wide = int(rng.integers(1, 10)), float(rng.choice([0.5, 1.0, 2.0, 3.0]))

    def model() -> None:
        v = pyro.sample("v", dist.Normal(tensor(0.0), wide))
        spread = (v / 2).exp().unsqueeze(-1).expand(*v.shape, size)
        pyro.sample("x", dist.Normal(torch.zeros_like(spread), spread).to_event(1))

    v = wide * tensor(rng.standard_normal((DRAWS, 1)))
    x = (v / 2).exp() * tensor(rng.standard_normal((DRAWS, size)))
    log_p = dist.Normal(0.0, wide).log_prob(v[:, 0]) + dist.Normal(0.0, (v / 2).exp()).log_prob(x).sum(-1)
    exact = Exact(torch.cat([v, x], -1), log_p)
    guide = guide_of(rng, model, {"v": 0.0, "x": torch.zeros(size)}, {"v": 0.01, "x": torch.full((size,), 0.01)})
    zero = torch.zeros(1, 1 + size, dtype=torch.float64)
    return Problem(model, None, guide, exact, zero, remark=f"D={size + 1} {wide}")


def schools(rng: np.random.Generator) -> Problem:
    """Eight schools, centred, with effects as measured or drawn anew; the exact draws by quadrature over tau."""
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    s = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    if rng.random() < 0.7:
        y = rng.normal(5, 1, 8) + rng.choice([1.0, 5.0, 15.0]) * rng.standard_normal(8) + s * rng.standard_normal(8)
    effects, errors = tensor(y), tensor(s)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(tensor(0.0), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(tensor(5.0)))
        at, spread = (v.unsqueeze(-1).expand(*v.shape, 8) for v in (mu, tau))
        theta = pyro.sample("theta", dist.Normal(at, spread).to_event(1))
        pyro.sample("y", dist.Normal(theta, errors).to_event(1), obs=effects)

    log_tau = np.linspace(-12, 8, 4001)
    variance = s**2 + np.exp(2 * log_tau)[:, None]
    precision, shift = (1 / variance).sum(1) + 1 / 25, (y / variance).sum(1)
    log_p = -0.5 * (np.log(variance).sum(1) + (y**2 / variance).sum(1) - shift**2 / precision + np.log(precision))
    log_p += log_tau - np.log1p(np.exp(2 * log_tau) / 25)
    weights = np.exp(log_p - log_p.max())
    which = rng.choice(len(log_tau), size=DRAWS, p=weights / weights.sum())
    tau = np.exp(log_tau[which])[:, None]
    mean, sd = (shift / precision)[which], 1 / np.sqrt(precision[which])
    mu = mean + sd * rng.standard_normal(DRAWS)
    inner = 1 / s**2 + 1 / tau**2
    middle = (y / s**2 + mu[:, None] / tau**2) / inner
    theta = middle + rng.standard_normal((DRAWS, 8)) / np.sqrt(inner)
    draws = tensor(np.column_stack([mu, log_tau[which], theta]))
    log_p = log_p - np.log(np.exp(log_p - log_p.max()).sum()) - log_p.max() - math.log(log_tau[1] - log_tau[0])
    log_q = stats.norm.logpdf(mu, mean, sd) + stats.norm.logpdf(theta, middle, 1 / np.sqrt(inner)).sum(1)
    exact = Exact(draws, tensor(log_p[which] + log_q))
    far = {"mu": 0.01, "tau": None, "theta": torch.full((8,), 0.01)}
    guide = guide_of(rng, model, {"mu": 5.0, "tau": 5.0, "theta": effects}, far)
    return Problem(model, None, guide, exact, draws.mean(0, keepdim=True), remark=f"y={y.round(1)}")


def banana(rng: np.random.Generator) -> Problem:
    """A parabola of some width, as in Rosenbrock's function; one to three of them."""
    size, wide, thick = int(rng.integers(1, 4)), float(rng.choice([0.3, 1.0, 3.0])), float(rng.choice([0.1, 0.3, 1.0]))

    def model() -> None:
        a = pyro.sample("a", dist.Normal(torch.ones(size, dtype=torch.float64), wide).to_event(1))
        pyro.sample("b", dist.Normal(a.square(), thick).to_event(1))

    a = 1 + wide * tensor(rng.standard_normal((DRAWS, size)))
    b = a.square() + thick * tensor(rng.standard_normal((DRAWS, size)))
    log_p = dist.Normal(1.0, wide).log_prob(a).sum(-1) + dist.Normal(a.square(), thick).log_prob(b).sum(-1)
    exact = Exact(torch.cat([a, b], -1), log_p)
    ones = torch.ones(size, dtype=torch.float64)
    guide = guide_of(rng, model, {"a": ones, "b": ones}, {"a": 0.01 * ones, "b": 0.01 * ones})
    near = torch.stack([torch.cat([a, a.square()]) for a in (ones, 0 * ones, -ones)])
    return Problem(model, None, guide, exact, near, remark=f"D={2 * size} wide={wide} thick={thick}")


def heavy(rng: np.random.Generator) -> Problem:
    """Priors of Student t with 1 to 3 degrees of freedom, and measurements with large errors or contradicting them."""
    size, df = int(rng.integers(1, 5)), float(rng.choice([1, 2, 3]))
    y, noise = tensor(rng.normal(0, 6, size)), float(rng.choice([1.0, 3.0, 10.0]))

    def model() -> None:
        x = pyro.sample("x", dist.StudentT(df, y.new_zeros(size), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)

    def of(each: Tensor) -> Exact:
        def log_density(x: Tensor) -> Tensor:
            both: Tensor = dist.StudentT(df, 0.0, 1.0).log_prob(x) + dist.Normal(x, noise).log_prob(each)
            return both.sum(-1)

        return on_grid(log_density, [-10 * noise - 20], [10 * noise + 20], rng)

    exact = side_by_side([of(each) for each in y])
    zero = torch.zeros(size, dtype=torch.float64)
    guide = guide_of(rng, model, {"x": zero}, {"x": zero + 0.01})
    return Problem(model, None, guide, exact, torch.stack([zero, y]), remark=f"df={df} noise={noise} y={y.tolist()}")


def ridge(rng: np.random.Generator) -> Problem:
    """Two positive numbers of which the sum is measured, with wide priors."""
    total, noise, wide = float(rng.uniform(1, 10)), float(rng.choice([0.05, 0.3, 1.0])), float(rng.choice([1.0, 10.0]))

    def model() -> None:
        a = pyro.sample("a", dist.HalfCauchy(tensor(wide)))
        b = pyro.sample("b", dist.HalfCauchy(tensor(wide)))
        pyro.sample("y", dist.Normal(a + b, noise), obs=tensor(total))

    def log_density(u: Tensor) -> Tensor:
        z = u.exp()
        return (u - (1 + (z / wide).square()).log()).sum(-1) - 0.5 * ((z.sum(-1) - total) / noise).square()

    exact = on_grid(log_density, [-12.0, -12.0], [4.0, 4.0], rng)
    near = tensor([[math.log(total / 2)] * 2, [math.log(total), math.log(total / 10)]])
    guide = guide_of(rng, model, {"a": total / 2, "b": total / 2}, {"a": None, "b": None})
    return Problem(model, None, guide, exact, near, remark=f"total={total:.1f} noise={noise} wide={wide}")


def improper(rng: np.random.Generator) -> Problem:
    """A flat prior over what the data do not tell: two intercepts, or a column that is twice there."""
    rows, twice = int(rng.integers(5, 50)), bool(rng.random() < 0.5)
    x = columns(rng, rows, 3, raw=True, correlated=False)
    x = torch.cat([x, x[:, -1:]], 1) if twice else torch.cat([x, x[:, :1]], 1)
    y = x[:, 1] / x[:, 1].std() + tensor(rng.standard_normal(rows))
    size = x.shape[1]

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", Flat(constraints.real, batch_shape=(size,)).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(product(x, beta), 1.0), obs=y)

    guide = guide_of(rng, model, {"beta": torch.zeros(size)}, {"beta": torch.ones(size)})
    return Problem(model, (x, y), guide, best=math.inf)


def many(rng: np.random.Generator) -> Problem:
    """A logistic regression of 50 to 80 weights on 40 rows."""
    size, rows = int(rng.integers(50, 81)), 40
    x = columns(rng, rows, size, raw=False, correlated=bool(rng.random() < 0.5))
    y = tensor(rng.random(rows) < torch.sigmoid(x @ tensor(rng.standard_normal(size) / 3)).numpy())

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(size), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=product(x, beta)), obs=y)

    guide = guide_of(rng, model, {"beta": torch.zeros(size)}, {"beta": torch.full((size,), 0.01)})
    return Problem(model, (x, y), guide, near=torch.zeros(1, size, dtype=torch.float64), remark=f"D={size}")


CURVED = (
    ("funnel", 10, funnel),
    ("eight schools, centred", 5, schools),
    ("banana", 6, banana),
    ("heavy priors", 4, heavy),
    ("ridge", 4, ridge),
    ("improper", 4, improper),
    ("many dimensions", 3, many),
)
