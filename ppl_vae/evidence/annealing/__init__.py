"""Annealing: evidence by chains that walk through temperatures between a start and the posterior."""

from ppl_vae.evidence.annealing.annealed import Annealed, Sequential
from ppl_vae.evidence.annealing.bridge import Bridge
from ppl_vae.evidence.annealing.hmc import HMC
from ppl_vae.evidence.annealing.sandwich import Sandwich, bidirectional, sandwich

__all__ = ["HMC", "Annealed", "Bridge", "Sandwich", "Sequential", "bidirectional", "sandwich"]
