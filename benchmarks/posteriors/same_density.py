"""Are the peers' models the same? Their log density at the reference's draws, beside ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posteriors.normal import sites_of
from posteriors.oracle import LogDensity, student_t
from posteriors.peers import require
from posteriors.posterior import Data, Posterior, Reference

POINTS = 20


def numpyro_density(posterior: Posterior, data: Data, points: Tensor) -> list[float]:
    """Log p(x, u) at points (S, D), by NumPyro in the precision of its runs."""
    require("numpyro")
    import jax.numpy as jnp
    from numpyro.infer.util import potential_energy

    from posteriors.numpyro_models import MODELS, precision

    with precision(posterior.name) as dtype:
        arrays = [jnp.asarray(part.numpy(), dtype=dtype) for part in data]

        def at(point: Tensor) -> float:
            u = {name: jnp.asarray(v[0].numpy(), dtype=dtype) for name, v in sites_of(posterior, point[None]).items()}
            return -float(potential_energy(MODELS[posterior.name], arrays, {}, u))

        return [at(point) for point in points]


def pymc_density(posterior: Posterior, data: Data, points: Tensor) -> list[float]:
    """Log p(x, u) at points (S, D), by PyMC."""
    require("pymc")
    from posteriors.pymc_models import MODELS, site_of

    model = MODELS[posterior.name](*(part.numpy() for part in data))
    log_p = model.compile_logp()
    names = [variable.name for variable in model.value_vars]

    def at(point: Tensor) -> dict[str, Any]:
        u = sites_of(posterior, point[None])
        return {name: u[site_of(name)][0].numpy() for name in names}

    return [float(log_p(at(point))) for point in points]


def largest_difference(log_density: LogDensity, data: Data, reference: Reference, density: Any) -> float:
    """The largest |theirs - ours| at draws around the reference, nats."""
    points, _ = student_t(reference, POINTS, seed=3)
    theirs = torch.tensor(density(log_density.posterior, data, points), dtype=torch.float64)
    return float((theirs - log_density(points)).abs().max())
