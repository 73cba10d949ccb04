"""Calibration: is the guide the posterior, in data that the model itself has made?"""

from ppl_vae.diagnostics.calibration.calibrate import calibration
from ppl_vae.diagnostics.calibration.refitting import variational_calibration
from ppl_vae.diagnostics.calibration.result import Calibration

__all__ = ["Calibration", "calibration", "variational_calibration"]
