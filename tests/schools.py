"""Eight schools: the data, the model in both forms, and what is known of its posterior exactly.

Donald Rubin, "Estimation in parallel randomized experiments", 1981.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)
DATA = (EFFECT, ERROR)
LOG_Z = -31.3113473523
"""Of either form, nats: given tau the effects are normal, and tau is one number, for quadrature."""


def centred(y: Tensor, sigma: Tensor) -> None:
    """As it is written first: a funnel."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def non_centred(y: Tensor, sigma: Tensor) -> None:
    """The same with the effects in units of their spread."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)
