"""Variational posteriors q_φ(z | x): one file a family.

Each is called as its model is, ``guide(x=None, *, y=None, mask=None, num_samples=None)``, and is a plain Pyro
guide.
"""

from __future__ import annotations

# Amortized: a network from x to q(z | x)
from ppl_vae.guides.amortized_normal import AmortizedNormal

# What a normal guide's covariance is made of
from ppl_vae.guides.covariance import Covariance, Diagonal, FullCovariance

# Not amortized: parameters of its own for every datum
from ppl_vae.guides.mean_field import MeanField

__all__ = ["AmortizedNormal", "Covariance", "Diagonal", "FullCovariance", "MeanField"]
