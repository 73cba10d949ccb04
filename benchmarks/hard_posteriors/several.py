"""Posteriors of two modes and more: mixtures, symmetries, outliers that a robust likelihood may or may not believe."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from hard_posteriors.problem import DRAWS, Exact, Problem, guide_of, on_grid, side_by_side, tensor


def mixture(rng: np.random.Generator) -> Problem:
    """A measurement that fits two or three places: the posterior is a mixture of normals, in closed form.

    Distances of 2 to 40 sds, weights from 0.5 and 0.5 to 0.9 and 0.1, 1 to 8 dimensions or 65 to 80. Widths differ so
    that volumes are up to thirty to one: a needle in many dimensions is found by nobody who knows the density alone.
    """
    size, count = int(rng.integers(1, 9)), 2 if rng.random() < 0.75 else 3
    size = int(rng.integers(65, 81)) if rng.random() < 0.1 else size
    first = float(rng.choice([0.5, 0.6, 0.7, 0.8, 0.9]))
    share = np.array([first, *([(1 - first) / (count - 1)] * (count - 1))])
    width = rng.choice([1.0, 1.0, 5.0, 30.0], size=count) ** (1 / size) * 10 ** rng.uniform(-2, 1)
    way = rng.standard_normal((count, size))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    apart = float(np.exp(rng.uniform(math.log(2), math.log(40)))) * float(width.max())
    place = tensor(way * apart * np.arange(count)[:, None] + rng.normal(0, 1, size) * apart)
    wide = 3 * apart + float(width.max())
    sd = tensor(width)
    marginal = dist.Normal(0.0, (sd**2 + wide**2).sqrt().unsqueeze(-1)).log_prob(place).sum(-1)
    logits = tensor(share).log() - marginal
    logits = logits - logits.logsumexp(0)
    spread = sd.unsqueeze(-1).expand(count, size)

    def model() -> None:
        x = pyro.sample("x", dist.Normal(place.new_zeros(size), wide).to_event(1))
        parts = dist.Independent(dist.Normal(x.unsqueeze(-2) - place, spread), 1)
        measured = dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)
        pyro.sample("y", measured, obs=place.new_zeros(size))

    shrink = wide**2 / (wide**2 + sd**2)
    which = torch.as_tensor(rng.choice(count, size=DRAWS, p=share))
    means, sds = place * shrink.unsqueeze(-1), sd * shrink.sqrt()
    draws = means[which] + sds[which].unsqueeze(-1) * tensor(rng.standard_normal((DRAWS, size)))
    each = dist.Normal(means, sds.unsqueeze(-1)).log_prob(draws.unsqueeze(1)).sum(-1)
    exact = Exact(draws, (each + tensor(share).log()).logsumexp(-1))
    guide = guide_of(rng, model, {"x": means[0]}, {"x": sds[0].expand(size)})
    return Problem(model, None, guide, exact, means, remark=f"D={size} apart={apart / width.max():.1f} {share} {width}")


def squares(rng: np.random.Generator) -> Problem:
    """Numbers of which only the squares were measured: 2^D modes, or one where the square may be 0."""
    size = int(rng.integers(1, 4))
    y, noise = tensor(rng.uniform(-1, 9, size)), float(rng.choice([0.3, 1.0, 3.0]))
    wide = float(rng.choice([1.0, 3.0, 10.0]))

    def model() -> None:
        x = pyro.sample("x", dist.Normal(y.new_zeros(size), wide).to_event(1))
        pyro.sample("y", dist.Normal(x.square(), noise).to_event(1), obs=y)

    def of(each: Tensor) -> Exact:
        def log_density(x: Tensor) -> Tensor:
            fits: Tensor = dist.Normal(x**2, noise).log_prob(each) + dist.Normal(0.0, wide).log_prob(x)
            return fits.sum(-1)

        return on_grid(log_density, [-8 * wide], [8 * wide], rng)

    exact = side_by_side([of(each) for each in y])
    near = y.clamp_min(0.1).sqrt().unsqueeze(0)
    guide = guide_of(rng, model, {"x": near[0]}, {"x": tensor([0.2]).expand(size)})
    return Problem(model, None, guide, exact, torch.cat([near, 0 * near]), remark=f"y={y.tolist()} noise={noise}")


def products(rng: np.random.Generator) -> Problem:
    """A factor and its loading: a and b may both change their sign."""
    x, noise = tensor(rng.standard_normal(int(rng.integers(3, 30)))), float(rng.choice([0.3, 1.0, 3.0]))
    a, b, wide = rng.normal(0, 1.5), rng.normal(0, 1.5), float(rng.choice([1.0, 3.0]))
    y = a * b * x + noise * tensor(rng.standard_normal(len(x)))

    def model(x: Tensor, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(x.new_tensor(0.0), wide))
        b = pyro.sample("b", dist.Normal(x.new_tensor(0.0), wide))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a * b * x, noise), obs=y)

    squares, cross = float(x.square().sum()), float((x * y).sum())

    def log_density(u: Tensor) -> Tensor:
        both = u.prod(-1)
        return -0.5 * (squares * both**2 - 2 * cross * both) / noise**2 - 0.5 * (u / wide).square().sum(-1)

    exact = on_grid(log_density, [-7 * wide] * 2, [7 * wide] * 2, rng)
    size = math.sqrt(abs(cross) / squares)
    near = tensor([[size, math.copysign(size, cross)], [0.0, 0.0]])
    guide = guide_of(rng, model, {"a": size, "b": size}, {"a": 0.1, "b": 0.1})
    return Problem(model, (x, y), guide, exact, near, remark=f"a={a:.2f} b={b:.2f} noise={noise}")


def labels(rng: np.random.Generator) -> Problem:
    """A mixture of two normals whose means may change places; equal weights or not, far apart or as good as one."""
    apart, weight, rows = rng.uniform(0.5, 6), float(rng.choice([0.5, 0.5, 0.4, 0.3])), int(rng.integers(10, 60))
    y = tensor(rng.standard_normal(rows) + apart * (rng.random(rows) < weight))
    wide = float(rng.choice([3.0, 10.0]))

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), wide).to_event(1))
        with pyro.plate("rows", len(y)):
            parts = dist.Normal(mu, 1.0)
            pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(y.new_tensor([1 - weight, weight])), parts), obs=y)

    def log_density(u: Tensor) -> Tensor:
        each = dist.Normal(u.unsqueeze(1), 1.0).log_prob(y.reshape(-1, 1))
        fits: Tensor = (each + tensor([1 - weight, weight]).log()).logsumexp(-1).sum(-1)
        return fits - 0.5 * (u / wide).square().sum(-1)

    def in_parts(u: Tensor) -> Tensor:
        return torch.cat([log_density(part) for part in u.split(20_000)])

    exact = on_grid(in_parts, [-4 * wide] * 2, [4 * wide] * 2, rng)
    near = tensor([[0.0, apart], [apart, 0.0], [float(y.mean())] * 2])
    guide = guide_of(rng, model, {"mu": near[0]}, {"mu": tensor([0.3, 0.3])})
    return Problem(model, (y,), guide, exact, near, remark=f"apart={apart:.1f} weight={weight} rows={rows}")


def location(rng: np.random.Generator) -> Problem:
    """A location under a Student t of 1 to 3 degrees of freedom: few numbers, which may contradict each other."""
    df, rows = float(rng.choice([1, 1, 2, 3])), int(rng.integers(2, 8))
    y = tensor(rng.standard_normal(rows) + rng.choice([0.0, 0.0, 10.0, 40.0], size=rows))
    cauchy = bool(rng.random() < 0.5)
    prior = dist.Cauchy(tensor(0.0), tensor(10.0)) if cauchy else dist.Normal(tensor(0.0), tensor(50.0))

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", prior)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.StudentT(df, mu, 1.0), obs=y)

    def log_density(u: Tensor) -> Tensor:
        fits: Tensor = dist.StudentT(df, u, 1.0).log_prob(y).sum(-1) + prior.log_prob(u[:, 0])
        return fits

    exact = on_grid(log_density, [-400.0], [400.0], rng)
    guide = guide_of(rng, model, {"mu": y.median()}, {"mu": 1.0})
    return Problem(model, (y,), guide, exact, y.unsqueeze(-1), remark=f"df={df} y={[round(v, 1) for v in y.tolist()]}")


def robust(rng: np.random.Generator) -> Problem:
    """A line through points of which up to a half lie on another: Student t noise of 1 to 3 degrees of freedom."""
    df, rows, off = float(rng.choice([1, 2, 3])), int(rng.integers(6, 30)), rng.choice([0.0, 0.2, 0.4, 0.5])
    x = tensor(rng.standard_normal(rows))
    other = tensor(rng.random(rows) < off)
    line = np.array([[0.0, 1.0], [rng.normal(0, 8), rng.normal(0, 4)]])
    y = (1 - other) * (line[0, 0] + line[0, 1] * x) + other * (line[1, 0] + line[1, 1] * x)
    y = y + 0.5 * tensor(rng.standard_normal(rows))

    def model(x: Tensor, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(x.new_tensor(0.0), 10.0))
        b = pyro.sample("b", dist.Normal(x.new_tensor(0.0), 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.StudentT(df, a + b * x, 0.5), obs=y)

    def log_density(u: Tensor) -> Tensor:
        z = 2 * (y - u[:, :1] - u[:, 1:] * x)
        return -0.5 * (df + 1) * (1 + z.square() / df).log().sum(-1) - 0.5 * (u / 10).square().sum(-1)

    exact = on_grid(log_density, [-40.0, -40.0], [40.0, 40.0], rng)
    guide = guide_of(rng, model, {"a": 0.0, "b": 1.0}, {"a": 0.1, "b": 0.1})
    remark = f"df={df} rows={rows} off={float(other.mean()):.2f} line={line[1].round(1)}"
    return Problem(model, (x, y), guide, exact, tensor(line), remark=remark)


SEVERAL = (
    ("mixture of normals", 22, mixture),
    ("squares", 5, squares),
    ("a times b", 7, products),
    ("labels", 10, labels),
    ("t location", 12, location),
    ("t regression", 8, robust),
)
