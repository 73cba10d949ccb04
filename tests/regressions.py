"""Bayesian linear regression with known noise on the diabetes data, standardized: all densities in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.result import Fit

DOUBLE = torch.float64
Data = tuple[Tensor, Tensor]


def diabetes(columns: int = 10) -> Data:
    """442 rows: x (442, columns), y (442,), each of mean 0 and sd 1."""
    x, y = (torch.as_tensor(part, dtype=DOUBLE) for part in load_diabetes(return_X_y=True))
    x, y = ((part - part.mean(0)) / part.std(0, correction=0) for part in (x, y))
    return x[:, :columns], y


@dataclass(frozen=True)
class Conjugate:
    """y ~ N(x w, noise^2), w ~ N(0, prior^2 I), given some rows."""

    x: Tensor
    y: Tensor
    noise: float = 0.7
    prior: float = 1.0

    @property
    def data(self) -> Data:
        return self.x, self.y

    @cached_property
    def covariance(self) -> Tensor:
        """Of the posterior of w."""
        precision = torch.eye(self.x.shape[1], dtype=DOUBLE) / self.prior**2 + self.x.T @ self.x / self.noise**2
        return torch.linalg.inv(precision)

    @cached_property
    def mean(self) -> Tensor:
        """Of the posterior of w."""
        return self.covariance @ self.x.T @ self.y / self.noise**2

    def log_predictive(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y_n | x_n, rows of the fit), (N,)."""
        variance = self.noise**2 + (x @ self.covariance * x).sum(-1)
        return dist.Normal(x @ self.mean, variance.sqrt()).log_prob(y)

    def log_predictive_together(self, x: Tensor, y: Tensor) -> float:
        """log p(y | x, rows of the fit) of all rows at once."""
        covariance = self.noise**2 * torch.eye(len(y), dtype=DOUBLE) + x @ self.covariance @ x.T
        return float(dist.MultivariateNormal(x @ self.mean, covariance).log_prob(y))

    def log_prior_predictive(self, x: Tensor, y: Tensor) -> float:
        """log p(y | x), which has seen no rows."""
        covariance = self.noise**2 * torch.eye(len(y), dtype=DOUBLE) + self.prior**2 * x @ x.T
        return float(dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))

    def leave_one_out(self) -> Tensor:
        """log p(y_n | all other rows), (N,)."""
        keep = [torch.arange(len(self.y)) != n for n in range(len(self.y))]
        others = [Conjugate(self.x[k], self.y[k], self.noise, self.prior) for k in keep]
        return torch.cat([o.log_predictive(self.x[n : n + 1], self.y[n : n + 1]) for n, o in enumerate(others)])

    # -- as a pair -----------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[1]), self.prior).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((w * x).sum(-1), self.noise), obs=y)

    def as_most_write_it(self, x: Tensor, y: Tensor | None = None) -> None:
        """The same with ``x @ w``, which is right for one w alone."""
        w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[1]), self.prior).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, self.noise), obs=y)

    def guide(self, *, sd: float = 1.0, shift: float = 0.0) -> Callable[..., Any]:
        """The posterior with ``sd`` times its spread, moved by ``shift`` sds along some line."""
        tril = torch.linalg.cholesky(self.covariance)
        loc, tril = self.mean + shift * tril.sum(1) / len(tril) ** 0.5, sd * tril

        def guide(x: Tensor, y: Tensor | None = None) -> None:
            pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=tril))

        return guide

    def fit(self, model: Callable[..., Any] | None = None, **guide: float) -> Fit:
        """A fit whose guide is known."""
        pair = Pair(self.model if model is None else model, self.guide(**guide), dtype=DOUBLE)
        return Fit(pair.initialize(self.data), config={"num_data": len(self.y)})
