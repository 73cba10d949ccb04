"""Terms of training that no density counts: a site that Pyro's losses pass over and objectives here add."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor


def auxiliary(name: str, value: Tensor) -> None:
    """Add a term to what is maximized in training, apart from log p and log q: a classification term, a commitment.

    Call it in a model or a guide, inside the data plate. It is a ``pyro.deterministic`` with a flag: no ELBO, evidence
    or draw counts it, Pyro's own losses pass over it, and an objective of ``ppl_vae`` adds it to what is differentiated
    and reports it as ``Terms.auxiliary``.

    Args:
        name: of the site.
        value: (..., N), one number a datum, nats; larger is better.
    """
    # "is_auxiliary" keeps Pyro from warning of a site that the guide alone has. Unlike ``pyro.deterministic`` no mask:
    # masked with False, Pyro's zeros are float32 whatever the value is, and TraceEnum_ELBO wants one type.
    infer: Any = {"_deterministic": True, "_auxiliary": True, "is_auxiliary": True}
    pyro.sample(name, dist.Delta(value), obs=value, infer=infer)
