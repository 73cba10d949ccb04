"""The ten models in NumPyro's primitives, with the same sites and the same unconstrained coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import sample
from numpyro.distributions import constraints

NEEDS_DOUBLE = {"gp_pois_regr"}
"""Run in double precision: single precision has no Cholesky factor with the 1e-10 on the diagonal."""


@contextmanager
def precision(name: str) -> Iterator[Any]:
    """NumPyro's default, single precision, but for those that need double; gives the dtype."""
    with jax.enable_x64(name in NEEDS_DOUBLE):
        yield jnp.float64 if name in NEEDS_DOUBLE else jnp.float32


def flat(name: str, support: Any = constraints.real, size: tuple[int, ...] = ()) -> Any:
    """A flat prior."""
    return sample(name, dist.ImproperUniform(support, (), size))


def simple(likelihood_of: Callable[[], Any]) -> Callable[[Any, Any], None]:
    """A line, flat but for sigma."""

    def model(x: Any, y: Any) -> None:
        intercept, slope = flat("intercept"), flat("slope")
        sigma = likelihood_of()
        with numpyro.plate("rows", len(y)):
            sample("y", dist.Normal(intercept + slope * x, sigma), obs=y)

    return model


def flat_regression(x: Any, y: Any) -> None:
    """Flat priors everywhere."""
    beta = flat("beta", constraints.real_vector, (x.shape[1],))
    sigma = flat("sigma", constraints.positive)
    with numpyro.plate("rows", len(y)):
        sample("y", dist.Normal(x @ beta, sigma), obs=y)


def blr(x: Any, y: Any) -> None:
    """Bayesian linear regression without an intercept."""
    beta = sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 10.0).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("rows", len(y)):
        sample("y", dist.Normal(x @ beta, sigma), obs=y)


def autoregression(lags: Any, y: Any) -> None:
    """A series by its own last values."""
    alpha = sample("alpha", dist.Normal(0.0, 10.0))
    beta = sample("beta", dist.Normal(jnp.zeros(lags.shape[1]), 10.0).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("rows", len(y)):
        sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def eight_schools(y: Any, sigma: Any) -> None:
    """Non-centred."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        effect = sample("theta_trans", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(mu + tau * effect, sigma), obs=y)


def kernel(x: Any, rho: Any, alpha: Any) -> Any:
    """The exponentiated quadratic kernel."""
    return alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)


def gp_regression(x: Any, y: Any) -> None:
    """A Gaussian process with normal noise of variance sigma."""
    rho = sample("rho", dist.Gamma(25.0, 4.0))
    alpha = sample("alpha", dist.HalfNormal(2.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    spread = kernel(x, rho, alpha) + sigma * jnp.eye(len(x))
    sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), spread), obs=y)


def gp_poisson(x: Any, count: Any) -> None:
    """A Gaussian process as the log rate of counts."""
    rho = sample("rho", dist.Gamma(25.0, 4.0))
    alpha = sample("alpha", dist.HalfNormal(2.0))
    factor = jnp.linalg.cholesky(kernel(x, rho, alpha) + 1e-10 * jnp.eye(len(x)))
    with numpyro.plate("points", len(x)):
        f_tilde = sample("f_tilde", dist.Normal(0.0, 1.0))
        sample("count", dist.Poisson(jnp.exp(factor @ f_tilde)), obs=count)


def hidden_markov(y: Any) -> None:
    """Two states, summed out by the forward algorithm."""
    theta1 = sample("theta1", dist.Beta(1.0, 1.0))
    theta2 = sample("theta2", dist.Beta(1.0, 1.0))
    mu1, gap = flat("mu1", constraints.positive), flat("gap", constraints.positive)
    mu = jnp.stack([mu1, mu1 + gap])
    numpyro.factor("prior of mu", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    to_first = jnp.stack([theta1, theta2])
    transitions = jnp.log(jnp.stack([to_first, 1 - to_first], -1))
    emissions = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def forward(at: Any, emission: Any) -> tuple[Any, None]:
        return jax.nn.logsumexp(at[:, None] + transitions, 0) + emission, None

    last, _ = jax.lax.scan(forward, emissions[0] - jnp.log(2.0), emissions[1:])
    numpyro.factor("y", jax.nn.logsumexp(last))


MODELS: Mapping[str, Callable[..., None]] = {
    "kidscore_momiq": simple(lambda: sample("sigma", dist.HalfCauchy(2.5))),
    "logearn_height": simple(lambda: flat("sigma", constraints.positive)),
    "mesquite": flat_regression,
    "nes": flat_regression,
    "sblri": blr,
    "arK": autoregression,
    "eight_schools": eight_schools,
    "gp_regr": gp_regression,
    "gp_pois_regr": gp_poisson,
    "hmm_example": hidden_markov,
}
