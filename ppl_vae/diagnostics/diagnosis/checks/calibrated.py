"""Is the guide calibrated on data that the model makes?"""

from __future__ import annotations

from typing import Any

from ppl_vae.diagnostics.calibration import Calibration, calibration
from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject

__all__ = ["Calibrated"]

SIMULATIONS, LEAST, DRAWS = 500, 100, 99
LEVEL, LOW = 0.9, 0.8
"""Regions of 90 % that hold the truth less often than the second are bad."""


class Calibrated(Check):
    """Ranks of the latents that data were made from, among draws of the guide."""

    name = "calibration"
    question = "On data that the model makes, does the guide hold the truth as often as it says?"
    threshold = (
        f"good: no p-value of uniform ranks below 0.01 over their number; bad: below it, and regions or intervals of "
        f"{100 * LEVEL:.0f} % that hold the truth in less than {100 * LOW:.0f} % of the simulations"
    )
    source = (
        "Sean Talts, Michael Betancourt, Daniel Simpson, Aki Vehtari, Andrew Gelman: Validating Bayesian inference "
        "algorithms with simulation-based calibration, 2018; Pablo Lemos, Adam Coogan, Yashar Hezaveh, Laurence "
        "Perreault-Levasseur: Sampling-based accuracy testing of posterior estimators for general inference, 2023"
    )

    def applies(self, subject: Subject) -> str:
        """Where data have latents of their own, and an amortized guide; the diagnostic says what else it needs."""
        if subject.is_shared:
            return (
                "latents are shared by all data, and each simulation takes a fit: diagnostics.variational_calibration"
            )
        return "" if subject.pair.latents else "the guide has no latents"

    def ask(self, subject: Subject) -> Finding:
        """With as many simulations as there is time for."""
        count = subject.draws(0.15, most=SIMULATIONS, each=DRAWS, least=1)
        if count < LEAST:
            return self.finding("not asked", f"{LEAST} simulations would take too long; raise seconds")
        options: Any = {"seed": subject.seed_of("calibration"), "max_elements": subject.max_elements}
        found = calibration(subject.pair, subject.rows, num_simulations=count, num_samples=DRAWS, **options)
        least = min(found.coverage(LEVEL).values())
        status: Status = "good" if found.passes else "bad" if least < LOW else "doubtful"
        advice = (
            "a richer guide or more steps of the E-step; where draws are too narrow, error bars by weights "
            "(evidence.weighted_draws); see docs/calibration.md"
        )
        said = repr(found).removeprefix("Calibration(").replace("): ", ": ", 1)
        return self.finding(status, said, advice=advice, pictures=_pictures(found), table=found.to_dataframe())


def _pictures(found: Calibration) -> tuple[Picture, ...]:
    said = "within the band" if found.passes else "outside of the band for at least one of them"
    ranks = f"The distribution of ranks minus that of uniform ones, a curve a quantity, {said}"
    held = ", ".join(
        f"{label} {100 * share:.0f} %" for label, share in found.coverage(LEVEL).items() if _is_region(found, label)
    )
    regions = f"Expected coverage minus level of regions; those of {100 * LEVEL:.0f} % hold: {held}"
    return (
        Picture(lambda ax=None: found.plot(ax=ax), ranks),
        Picture(lambda ax=None: found.plot(regions=True, ax=ax), regions),
    )


def _is_region(found: Calibration, label: str) -> bool:
    return found.ranked[label].kind == "region"
