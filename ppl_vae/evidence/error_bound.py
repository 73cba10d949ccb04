r"""How far means and standard deviations of a guide can be off, from a divergence: an estimate of a bound.

With :math:`D_2 = \log E_q[(p(u \mid x) / q(u))^2]` and :math:`CUBO_2 = \frac{1}{2} \log E_q[(p(x, u) / q(u))^2]`,

.. math:: D_2 = 2 (CUBO_2 - \log p(x)) \le 2 (CUBO_2 - ELBO), \qquad
    W_r(q, p) \le C_r \, (e^{D_2} - 1)^{1/2r}, \quad C_r = 2 \, E_q[|u - m|^{2r}]^{1/2r}

for the Wasserstein distance of order r, here of each coordinate, whose D_2 is no greater than that of all together.
The means differ by at most :math:`W_1`, the standard deviations by at most :math:`W_2`.

The CUBO is estimated from draws of the guide, and too low where they miss the tail of the weights: what comes out is an
estimate, and no bound. With k-hat of 0.5 or more the squared weights have no mean that draws would show, and nothing is
said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.evidence.weights import khat

__all__ = ["ErrorBound", "error_bound"]


KHAT_OF_SQUARES = 0.5
"""Below this k-hat the squares of weights have an expectation."""


@dataclass(frozen=True)
class ErrorBound:
    """Estimated bounds in D coordinates, in sds of the guide.

    Attributes:
        divergence: D_2 of the posterior from the guide, nats; an upper bound if it is made with an ELBO.
        mean: by how much the mean of any coordinate may be off.
        sd: (D,) by how much the standard deviation of each may.
        khat: of the weights.
    """

    divergence: float
    mean: float
    sd: Tensor
    khat: float

    @property
    def believable(self) -> bool:
        """Is k-hat below 0.5, so that draws can tell the divergence?"""
        return self.khat < KHAT_OF_SQUARES

    def __repr__(self) -> str:
        if not self.believable:
            return f"No bound of the errors: k-hat {self.khat:.2f}, less than {KHAT_OF_SQUARES} is required"
        return (
            f"Estimated bound (no guarantee): means off by at most {self.mean:.2g} sd, sds by at most "
            f"{float(self.sd.max()):.2g} sd"
        )


def error_bound(values: Tensor, log_weight: Tensor, *, log_z: float | None = None) -> ErrorBound:
    """Estimate the bounds from independent draws of the guide.

    Args:
        values: (S, D) draws.
        log_weight: (S,) their log p - log q, nats.
        log_z: log p(x), or a lower bound of it as the ELBO is, nats; the mean of the log weights (their ELBO) if it is
            not given. log p(x) makes a tighter bound.

    Jonathan Huggins, Mikołaj Kasprzak, Trevor Campbell, Tamara Broderick: "Validated Variational Inference via
    Practical Posterior Error Bounds", 2020.

    >>> values = torch.linspace(-2, 2, 100).unsqueeze(1)
    >>> error_bound(values, torch.zeros(100))
    Estimated bound (no guarantee): means off by at most 0 sd, sds by at most 0 sd
    """
    log_weight = log_weight.double()
    lower = float(log_weight.mean()) if log_z is None else log_z
    cubo = 0.5 * (float((2 * log_weight).logsumexp(0)) - math.log(len(log_weight)))
    divergence = max(2 * (cubo - lower), 0.0)
    spread = math.expm1(divergence) if divergence < 700 else math.inf
    apart = values.double() - values.double().mean(0)
    sd = apart.square().mean(0).sqrt()
    fourth = apart.square().square().mean(0) ** 0.25 / torch.where(sd > 0, sd, torch.ones_like(sd))
    return ErrorBound(divergence, 2 * math.sqrt(spread), 2 * fourth * spread**0.25, float(khat(log_weight)))
