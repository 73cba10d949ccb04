"""Generative models p_θ(x, z): one file a model.

Each is called ``model(x=None, *, y=None, mask=None, num_samples=None)`` and is a plain Pyro model, good for
any inference that Pyro has.
"""

from __future__ import annotations

# What models are made of
from ppl_vae.models import likelihoods, priors

# Continuous latents
from ppl_vae.models.vae import VAE

__all__ = ["VAE", "likelihoods", "priors"]
