"""The few distributions that Pyro lacks, and the likelihoods, priors and guides here need."""

from __future__ import annotations

# Several categorical latents as one, exact and relaxed
from ppl_vae.distributions.codes import MAX_CODES, Codes, one_hot

# Improper priors
from ppl_vae.distributions.flat import Flat, is_improper

# KL(q || p)
from ppl_vae.distributions.kl import closed_form_kl, event_rank, sum_event

# Grey levels
from ppl_vae.distributions.levels import CategoricalLevels

# Draws that follow from noise which is handed over
from ppl_vae.distributions.of_noise import OfNoise
from ppl_vae.distributions.relaxed_codes import RelaxedCodes

# What stands inside wrappers
from ppl_vae.distributions.unwrap import unwrap, without_mask

# Points, and who counts their volume
from ppl_vae.distributions.volume import CountsVolume, PointMass

# Wider twins, for proposals that reach beyond a guide
from ppl_vae.distributions.widened import HasWider, Widened, widened

__all__ = [
    "MAX_CODES",
    "CategoricalLevels",
    "Codes",
    "CountsVolume",
    "Flat",
    "HasWider",
    "OfNoise",
    "PointMass",
    "RelaxedCodes",
    "Widened",
    "closed_form_kl",
    "event_rank",
    "is_improper",
    "one_hot",
    "sum_event",
    "unwrap",
    "widened",
    "without_mask",
]
