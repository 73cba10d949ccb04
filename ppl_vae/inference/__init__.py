"""How: variational EM, and the schedules of its two steps."""

from ppl_vae.inference.beginner import fit
from ppl_vae.inference.schedules import Alternating, Joint
from ppl_vae.inference.variational_em import VariationalEM

__all__ = ["Alternating", "Joint", "VariationalEM", "fit"]
