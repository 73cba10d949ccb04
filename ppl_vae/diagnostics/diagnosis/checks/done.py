"""Is the fit done?"""

from __future__ import annotations

from typing import Any

from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject
from ppl_vae.plots.curves import history
from ppl_vae.training.rising import LEAST_ROWS

__all__ = ["Done"]


class Done(Check):
    """The certificate, where there is one; else whether the ELBO was still rising, or the run ended otherwise."""

    name = "fit done"
    question = "Was the fit at its end, or would more steps have changed it?"
    threshold = (
        "good: the certificate is given, the run says that it has converged, or no trend in the last third of the "
        "ELBO's history (at the level of 1 %); bad: a certificate by which the fit is not the best of its family, or a "
        "run that failed"
    )
    source = "docs/convergence.md; the trend by means of batches, whose errors take correlation into account"

    def applies(self, subject: Subject) -> str:
        """A pair by itself has no record; nor has one that was stepped by hand."""
        if subject.fit is None:
            return "a pair by itself has no record of a run; give the fit"
        record = subject.fit.record
        if subject.fit.certificate is None and not len(record.table):
            return "the run has no history"
        return ""

    def ask(self, subject: Subject) -> Finding:
        """By the certificate, or the record."""
        fit = subject.fit
        if (found := fit.certificate) is not None:
            status: Status = "good" if found.given else "doubtful" if found.converged else "bad"
            advice = "; ".join(dict.fromkeys(line.advice for line in found.failed if line.advice))
            return self.finding(status, found.sentence.rstrip("."), table=found.table(), advice=advice)
        pictures = _curve(fit)
        ended, length = fit.ended, f"{fit.epochs} epochs, {fit.steps} steps"
        if ended in ("non-finite", "failed"):
            return self.finding("bad", f"the run ended by an error ({ended}) after {length}", pictures=pictures)
        if ended == "converged" or ended.startswith("early stopping"):
            return self.finding("good", f"{ended} after {length}", pictures=pictures)
        if ended != "completed":
            advice = "go on: fit.resume(...)"
            return self.finding("doubtful", f"{ended} ({length})", advice=advice, pictures=pictures)
        if fit.rise is not None:
            return self.finding(
                "doubtful", str(fit.rise), advice="more epochs: fit.resume(epochs=...)", pictures=pictures
            )
        if len(fit.record.table) < LEAST_ROWS:
            short = f"a history of {len(fit.record.table)} rows is too short to tell; {LEAST_ROWS} are needed"
            return self.finding("not asked", short, pictures=pictures)
        return self.finding("good", f"the ELBO had come to rest after {length}", pictures=pictures)


def _curve(fit: Any) -> tuple[Picture, ...]:
    frame = fit.history
    if "elbo" not in frame:
        return ()
    first, last = float(frame["elbo"].iloc[0]), float(frame["elbo"].iloc[-1])
    alt = f"The ELBO over {len(frame)} rows of the history, from {first:.2f} to {last:.2f} nats per datum"
    return (Picture(lambda ax=None: history(frame, ax=ax), alt),)
