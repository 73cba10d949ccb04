"""How: variational EM, the schedules of its two steps, and Pyro's SVI compiled."""

from ppl_vae.inference.beginner import fit
from ppl_vae.inference.compiled_svi import CompiledSVI
from ppl_vae.inference.deterministic import DeterministicVI, LinearResponse, linear_response
from ppl_vae.inference.ladder import Ladder
from ppl_vae.inference.schedules import Alternating, Frozen, Joint, Only, Stages
from ppl_vae.inference.variational_em import VariationalEM

__all__ = [
    "Alternating",
    "CompiledSVI",
    "DeterministicVI",
    "Frozen",
    "Joint",
    "Ladder",
    "LinearResponse",
    "Only",
    "Stages",
    "VariationalEM",
    "fit",
    "linear_response",
]
