"""Does the model make data like these? Numbers of replicated data beside those of the data."""

from ppl_vae.diagnostics.predictive_check.check import predictive_check
from ppl_vae.diagnostics.predictive_check.result import PredictiveCheck

__all__ = ["PredictiveCheck", "predictive_check"]
