"""Everything that can be asked of a fit, on one page."""

from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.checks import CHECKS
from ppl_vae.diagnostics.diagnosis.diagnose import diagnose
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture
from ppl_vae.diagnostics.diagnosis.result import Diagnosis

__all__ = ["CHECKS", "Check", "Diagnosis", "Finding", "Picture", "diagnose"]
