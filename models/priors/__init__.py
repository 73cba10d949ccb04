"""Priors: modules that, called, return a Pyro distribution, p(z) of event shape (latent_dim,) or p(c) of (M,)."""

from __future__ import annotations

# The contracts
from ppl_vae.models.priors.base import Prior
from ppl_vae.models.priors.code_prior import CodePrior

# Over z: a flow
from ppl_vae.models.priors.flow_prior import FlowPrior

# Over codes: learned, fixed
from ppl_vae.models.priors.learned import Learned

# Over z: learned
from ppl_vae.models.priors.mixture_of_normals import MixtureOfNormals

# Over z: fixed
from ppl_vae.models.priors.standard_normal import StandardNormal
from ppl_vae.models.priors.uniform import Uniform

__all__ = ["CodePrior", "FlowPrior", "Learned", "MixtureOfNormals", "Prior", "StandardNormal", "Uniform"]
