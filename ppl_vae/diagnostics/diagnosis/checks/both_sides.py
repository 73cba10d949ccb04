"""log p(x) from both sides, by chains: slow, and owes the guide little."""

from __future__ import annotations

from typing import Any

from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject
from ppl_vae.evidence import Annealed, log_evidence, sandwich

__all__ = ["BothSides"]

ROWS = 50
NARROW = 0.5
"""Nats between the sides."""
FAR = 4.5
"""Standard errors."""


class BothSides(Check):
    """Annealed importance sampling from below and from above, beside the importance weights."""

    name = "both sides"
    question = "Do chains that owe the guide nothing find the same log p(x)?"
    threshold = (
        f"good: a median gap of at most {NARROW} nats between the sides, on these rows and on simulated ones; bad: the "
        f"estimate by importance weights lies more than {NARROW} nats, and {FAR} standard errors, below the lower side"
    )
    source = (
        "Roger Grosse, Siddharth Ancha, Daniel Roy: Measuring the reliability of MCMC inference with bidirectional "
        "Monte Carlo, 2016"
    )

    def applies(self, subject: Subject) -> str:
        """Where it is asked for."""
        return "" if subject.thorough else "chains take minutes: diagnose(..., thorough=True)"

    def ask(self, subject: Subject) -> Finding:
        """On at most 50 of the rows."""
        rows = subject.fewer(ROWS)
        options: Any = {"seed": subject.seed_of("sides"), "max_elements": subject.max_elements}
        found = sandwich(subject.pair, rows, Annealed(), **options)
        weighed = log_evidence(subject.pair, rows, **options)
        apart = float((found.lower.value - weighed.value).mean())
        errors = [float(e.standard_error.nan_to_num(0.0).square().sum().sqrt()) for e in (found.lower, weighed)]
        error = (errors[0] ** 2 + errors[1] ** 2) ** 0.5 / max(1, weighed.value.numel())
        gaps = [float(side.gap.median()) for side in (found, found.simulated) if side is not None]
        wrong = apart > NARROW and apart > FAR * error
        status: Status = "bad" if wrong else "good" if max(gaps) <= NARROW else "doubtful"
        beside = "above" if apart > 0 else "below"
        said = f"{found!r}; the lower side is {abs(apart):.3f} ± {error:.1g} nats {beside} the importance weights"
        alt = f"Both sides of log p(x) of {max(1, found.gap.numel())} rows; the median gap is {gaps[0]:.3f} nats"
        pictures = (Picture(lambda ax=None: found.plot(ax=ax), alt),)
        advice = "Annealed() for the evidence where the weights are wrong; more temperatures where the sides are apart"
        return self.finding(status, said, advice=advice, pictures=pictures, table=found.to_dataframe().head(10))
