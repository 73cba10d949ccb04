"""Priors p(z): modules that, called, return a Pyro distribution with event shape (latent_dim,)."""

from __future__ import annotations

# The contract
from ppl_vae.models.priors.base import Prior

# Learned
from ppl_vae.models.priors.mixture_of_normals import MixtureOfNormals

# Fixed
from ppl_vae.models.priors.standard_normal import StandardNormal

__all__ = ["MixtureOfNormals", "Prior", "StandardNormal"]
