"""The ten models in PyMC, with the same sites and the same unconstrained coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt


def regression(priors: Callable[[int], tuple[Any, Any]]) -> Callable[[Any, Any], Any]:
    """Y ~ N(x beta, sigma) with these priors of beta and sigma."""

    def build(x: Any, y: Any) -> Any:
        with pm.Model() as model:
            beta, sigma = priors(x.shape[1])
            pm.Normal("y", pt.dot(x, beta), sigma, observed=y)
        return model

    return build


def line(prior: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    """A line, flat but for sigma."""

    def build(x: Any, y: Any) -> Any:
        with pm.Model() as model:
            mean = pm.Flat("intercept") + pm.Flat("slope") * x
            pm.Normal("y", mean, prior(), observed=y)
        return model

    return build


def autoregression(lags: Any, y: Any) -> Any:
    """A series by its own last values."""
    with pm.Model() as model:
        alpha = pm.Normal("alpha", 0.0, 10.0)
        beta = pm.Normal("beta", 0.0, 10.0, shape=lags.shape[1])
        pm.Normal("y", alpha + pt.dot(lags, beta), pm.HalfCauchy("sigma", 2.5), observed=y)
    return model


def eight_schools(y: Any, sigma: Any) -> Any:
    """Non-centred."""
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
        effect = pm.Normal("theta_trans", 0.0, 1.0, shape=len(y))
        pm.Normal("y", mu + tau * effect, sigma, observed=y)
    return model


def kernel(x: Any, rho: Any, alpha: Any) -> Any:
    """The exponentiated quadratic kernel."""
    return alpha**2 * pt.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)


def gp_regression(x: Any, y: Any) -> Any:
    """A Gaussian process with normal noise of variance sigma."""
    with pm.Model() as model:
        rho = pm.Gamma("rho", alpha=25.0, beta=4.0)
        alpha, sigma = pm.HalfNormal("alpha", 2.0), pm.HalfNormal("sigma", 1.0)
        spread = kernel(x, rho, alpha) + sigma * pt.eye(len(x))
        pm.MvNormal("y", np.zeros(len(x)), cov=spread, observed=y)
    return model


def gp_poisson(x: Any, count: Any) -> Any:
    """A Gaussian process as the log rate of counts."""
    with pm.Model() as model:
        rho, alpha = pm.Gamma("rho", alpha=25.0, beta=4.0), pm.HalfNormal("alpha", 2.0)
        f_tilde = pm.Normal("f_tilde", 0.0, 1.0, shape=len(x))
        factor = pt.linalg.cholesky(kernel(x, rho, alpha) + 1e-10 * pt.eye(len(x)))
        pm.Poisson("count", pt.exp(pt.dot(factor, f_tilde)), observed=count)
    return model


def hidden_markov(y: Any) -> Any:
    """Two states, summed out by the forward algorithm."""
    with pm.Model() as model:
        theta1, theta2 = pm.Beta("theta1", 1.0, 1.0), pm.Beta("theta2", 1.0, 1.0)
        mu1, gap = pm.HalfFlat("mu1"), pm.HalfFlat("gap")
        mu = pt.stack([mu1, mu1 + gap])
        pm.Potential("prior of mu", pm.logp(pm.Normal.dist(np.array([3.0, 10.0]), 1.0), mu).sum())
        to_first = pt.stack([theta1, theta2])
        transitions = pt.log(pt.stack([to_first, 1 - to_first], axis=-1))
        emissions = -0.5 * (y[:, None] - mu) ** 2 - 0.5 * np.log(2 * np.pi)

        def forward(emission: Any, at: Any, transitions: Any) -> Any:
            moves = at[:, None] + transitions
            first, second = moves[0], moves[1]
            top = pt.maximum(first, second)  # PyTensor's own logsumexp underflows here
            return top + pt.log(pt.exp(first - top) + pt.exp(second - top)) + emission

        steps, _ = pytensor.scan(
            forward,
            sequences=[emissions[1:]],
            outputs_info=[emissions[0] - np.log(2)],
            non_sequences=[transitions],
        )
        pm.Potential("y", pt.logsumexp(steps[-1]))
    return model


def site_of(variable: str) -> str:
    """The site of an unconstrained variable: ``sigma_log__`` is of sigma."""
    return variable.removesuffix("__").removesuffix("_log").removesuffix("_logodds")


FLAT = regression(lambda size: (pm.Flat("beta", shape=size), pm.HalfFlat("sigma")))

MODELS: Mapping[str, Callable[..., Any]] = {
    "kidscore_momiq": line(lambda: pm.HalfCauchy("sigma", 2.5)),
    "logearn_height": line(lambda: pm.HalfFlat("sigma")),
    "mesquite": FLAT,
    "nes": FLAT,
    "sblri": regression(lambda size: (pm.Normal("beta", 0.0, 10.0, shape=size), pm.HalfNormal("sigma", 10.0))),
    "arK": autoregression,
    "eight_schools": eight_schools,
    "gp_regr": gp_regression,
    "gp_pois_regr": gp_poisson,
    "hmm_example": hidden_markov,
}
