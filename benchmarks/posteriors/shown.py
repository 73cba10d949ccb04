"""DADVI and Pathfinder of pymc-extras: printed beside, as neither maximizes the ELBO of a full-rank normal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from posteriors.ours import Moments
from posteriors.peers import require
from posteriors.posterior import Data, Posterior, Reference


def dadvi(model: Any) -> Any:
    """A mean-field normal on 30 fixed draws, 4000 draws of it."""
    from pymc_extras.inference import fit_dadvi

    return fit_dadvi(model=model, n_draws=4000, progressbar=False, random_seed=0)


def pathfinder(model: Any) -> Any:
    """Four paths in this process, 4000 importance-resampled draws of 4000 a path."""
    from pymc_extras.inference import fit_pathfinder

    return fit_pathfinder(
        model=model,
        num_draws=4000,
        num_draws_per_path=4000,
        concurrent=None,
        progressbar=False,
        display_summary=False,
        add_pathfinder_groups=False,
        random_seed=0,
    )


SHOWN: Mapping[str, Callable[[Any], Any]] = {"DADVI": dadvi, "Pathfinder": pathfinder}


def show(posterior: Posterior, data: Data, reference: Reference, method: str) -> tuple[float, Moments]:
    """Seconds, compiling included, and the moments of the draws.

    Raises:
        Unavailable: without pymc-extras.
    """
    require("pymc_extras")
    from posteriors.pymc_models import MODELS

    for name in ("pymc", "pymc_extras"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started = time.perf_counter()
    found = SHOWN[method](MODELS[posterior.name](*(part.numpy() for part in data))).posterior
    seconds = time.perf_counter() - started
    values = {}
    for name in posterior.supports:
        draws = torch.from_numpy(found[name].to_numpy().copy())  # (chain, draw, ...)
        values[name] = draws.flatten(0, 1)
    return seconds, Moments.of(posterior.coordinates(values), None, reference)
