"""The problems that compiled_step.py measures, each written three times: for Pyro, by hand, for NumPyro."""

from __future__ import annotations

from collections.abc import Callable

from step_problems.base import Problem, Unavailable
from step_problems.coupling import coupling
from step_problems.discrete import enumeration, mixture
from step_problems.vae import iwae, large_vae, scaled_vae, small_vae

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "small VAE": small_vae,
    "large VAE": large_vae,
    "enumeration": enumeration,
    "IWAE(50)": iwae,
    "coupling": coupling,
    "GMM": mixture,
}

__all__ = ["PROBLEMS", "Problem", "Unavailable", "scaled_vae"]
