"""Generative models p_θ(x, z): one file a model.

Each is called ``model(x=None, *, y=None, mask=None, num_samples=None)`` and is a plain Pyro model, good for
any inference that Pyro has.
"""

from __future__ import annotations

# What models are made of
from ppl_vae.models import likelihoods, priors

# Discrete latents
from ppl_vae.models.discrete_vae import DiscreteVAE

# A density up to a constant, without data
from ppl_vae.models.energy import Energy

# A flow: a decoder without chance
from ppl_vae.models.flow import FlowModel

# Discrete and continuous latents
from ppl_vae.models.mixture_vae import MixtureVAE

# How every model of rows is called
from ppl_vae.models.model import Model

# Priors over codes
from ppl_vae.models.priors import Learned, Uniform
from ppl_vae.models.semi_supervised_vae import SemiSupervisedVAE

# Continuous latents
from ppl_vae.models.vae import VAE

__all__ = [
    "VAE",
    "DiscreteVAE",
    "Energy",
    "FlowModel",
    "Learned",
    "MixtureVAE",
    "Model",
    "SemiSupervisedVAE",
    "Uniform",
    "likelihoods",
    "priors",
]
