"""A posterior by Hamiltonian Monte Carlo beside the guide's, where the model is small enough for it."""

from ppl_vae.diagnostics.reference.refer import reference
from ppl_vae.diagnostics.reference.result import Reference

__all__ = ["Reference", "reference"]
