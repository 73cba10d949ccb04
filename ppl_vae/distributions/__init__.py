"""The few distributions that Pyro lacks and the likelihoods here need."""

from __future__ import annotations

from ppl_vae.distributions.levels import CategoricalLevels

__all__ = ["CategoricalLevels"]
