r"""How far means and standard deviations of a guide can be off, from a divergence: an estimate of a bound.

With :math:`D_2 = \log E_q[(p(u \mid x) / q(u))^2]`, and :math:`CUBO_2 = \frac{1}{2} \log E_q[(p(x, u) / q(u))^2]`,

.. math:: D_2 = 2 (CUBO_2 - \log p(x)) \le 2 (CUBO_2 - ELBO), \qquad
    W_p(q, p) \le 2 \, E_q[|u - m|^{2p}]^{1/2p} \, (e^{D_2} - 1)^{1/2p}

for the Wasserstein distance of order p of each coordinate, whose divergence is no greater than that of all together.
Means differ by at most :math:`W_1`, standard deviations by at most :math:`W_2`.

The CUBO is estimated from draws of the guide, and too low where they miss the tail of the weights: what comes out is an
estimate, and no bound, and worth little where k-hat is 0.5 or more (the mean of squared weights has no variance then).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ErrorBound", "error_bound"]


@dataclass(frozen=True)
class ErrorBound:
    """Estimated bounds in D coordinates, in sds of the guide.

    Attributes:
        divergence: of the posterior from the guide, of order 2, nats.
        mean: () by how much means may be off; alike for all coordinates.
        sd: (D,) by how much standard deviations may.
    """

    divergence: float
    mean: float
    sd: Tensor


def error_bound(values: Tensor, log_weight: Tensor, *, elbo: float | None = None) -> ErrorBound:
    """Estimate the bounds from independent draws of the guide.

    Args:
        values: (S, D) draws.
        log_weight: (S,) their log p - log q, nats.
        elbo: a lower bound of log p(x), nats; the mean of the log weights if it is not given.

    Jonathan Huggins, Mikołaj Kasprzak, Trevor Campbell, Tamara Broderick: "Validated Variational Inference via
    Practical Posterior Error Bounds", 2020.
    """
    log_weight = log_weight.double()
    lower = float(log_weight.mean()) if elbo is None else elbo
    cubo = 0.5 * (float((2 * log_weight).logsumexp(0)) - math.log(len(log_weight)))
    divergence = max(2 * (cubo - lower), 0.0)
    spread = math.expm1(divergence) if divergence < 700 else math.inf
    apart = values.double() - values.double().mean(0)
    sd = apart.square().mean(0).sqrt()
    fourth = apart.square().square().mean(0) ** 0.25 / torch.where(sd > 0, sd, torch.ones_like(sd))
    return ErrorBound(divergence, 2 * math.sqrt(spread), 2 * fourth * spread**0.25)
