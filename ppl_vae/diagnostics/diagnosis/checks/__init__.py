"""The checks of a diagnosis, in the order in which they are asked and shown."""

from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.checks.both_sides import BothSides
from ppl_vae.diagnostics.diagnosis.checks.calibrated import Calibrated
from ppl_vae.diagnostics.diagnosis.checks.codes import ActiveDimensions, CodesInUse, Collapse
from ppl_vae.diagnostics.diagnosis.checks.done import Done
from ppl_vae.diagnostics.diagnosis.checks.evidence import Gap, GuideTails, LogEvidence
from ppl_vae.diagnostics.diagnosis.checks.rows import BeatsBaselines, NewRows, OddRows
from ppl_vae.diagnostics.diagnosis.checks.shared import LeftOut, Moments

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    Done(),
    LogEvidence(),
    GuideTails(),
    Gap(),
    Moments(),
    Calibrated(),
    Collapse(),
    ActiveDimensions(),
    CodesInUse(),
    NewRows(),
    OddRows(),
    BeatsBaselines(),
    LeftOut(),
    BothSides(),
)
