"""Diagnostics: draws for ArviZ, k-hat per datum, collapsed dimensions, and the verdict in words."""

from ppl_vae.diagnostics.collapse import ActiveUnits, active_units, kl_per_dimension
from ppl_vae.diagnostics.inference_data import to_inference_data
from ppl_vae.diagnostics.khat import khat
from ppl_vae.diagnostics.verdict import Verdict, verdict

__all__ = [
    "ActiveUnits",
    "Verdict",
    "active_units",
    "khat",
    "kl_per_dimension",
    "to_inference_data",
    "verdict",
]
