"""Variational posteriors q_φ(z | x): one file a family.

Each is called as its model is, ``guide(x=None, *, y=None, mask=None, num_samples=None)``, and is a plain Pyro
guide.
"""

from __future__ import annotations

# How every amortized guide is called
from ppl_vae.guides.amortized import AmortizedGuide

# What guides of codes share
from ppl_vae.guides.amortized_codes import AmortizedCodes

# Amortized: a network from x to q(z | x)
from ppl_vae.guides.amortized_flow import AmortizedFlow
from ppl_vae.guides.amortized_normal import AmortizedNormal

# All latents of a model at once, as an autoguide
from ppl_vae.guides.auto_flow import AutoFlow

# What a normal guide's covariance is made of
from ppl_vae.guides.covariance import Covariance, Diagonal, FullCovariance

# Codes, amortized: summed out, relaxed, drawn
from ppl_vae.guides.enumerated_categorical import EnumeratedCategorical

# A flow's encoder: a point for each datum
from ppl_vae.guides.flow_guide import FlowGuide

# A flow for a latent outside every plate
from ppl_vae.guides.flow_posterior import FlowPosterior

# Not amortized: parameters of its own for every datum
from ppl_vae.guides.mean_field import MeanField

# Non-centred latents, drawn by an autoguide
from ppl_vae.guides.non_centred import NonCentred
from ppl_vae.guides.relaxed_categorical import RelaxedCategorical
from ppl_vae.guides.sampled_categorical import SampledCategorical

# A label and a normal style, amortized
from ppl_vae.guides.semi_supervised import SemiSupervisedGuide

__all__ = [
    "AmortizedCodes",
    "AmortizedFlow",
    "AmortizedGuide",
    "AmortizedNormal",
    "AutoFlow",
    "Covariance",
    "Diagonal",
    "EnumeratedCategorical",
    "FlowGuide",
    "FlowPosterior",
    "FullCovariance",
    "MeanField",
    "NonCentred",
    "RelaxedCategorical",
    "SampledCategorical",
    "SemiSupervisedGuide",
]
