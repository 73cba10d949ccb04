"""Does the model use its latents?"""

from __future__ import annotations

import math
from typing import Any

from ppl_vae.diagnostics.collapse import active_units
from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject
from ppl_vae.diagnostics.surgery import BIT, COLLAPSED, surgery
from ppl_vae.diagnostics.usage import code_usage, discrete_sites

__all__ = ["ActiveDimensions", "CodesInUse", "Collapse"]

DRAWS, SCORED = 8, 10
"""Draws a datum of the surgery; how many times cheaper than a draw it is to score one under another posterior."""
REMEDIES = (
    "a KL that comes in later (LinearWarmup), a floor under it (free_bits), an E-step that does not lag behind "
    "(Alternating(e_steps=5)), a weaker decoder; see docs/collapse.md"
)


class Collapse(Check):
    """The mutual information of datum and code."""

    name = "collapse"
    question = "Does a code tell anything of its datum?"
    threshold = f"good: at least log 2 = {BIT:.2f} nats of mutual information; bad (collapsed): less than {COLLAPSED}"
    source = (
        "Matthew Hoffman, Matthew Johnson: ELBO surgery, yet another way to carve up the variational evidence lower "
        "bound, 2016; the limits: docs/collapse.md"
    )

    def applies(self, subject: Subject) -> str:
        """Where data have latents of their own."""
        return _no_codes(subject)

    def ask(self, subject: Subject) -> Finding:
        """By surgery of as many rows as there is time for."""
        most = math.isqrt(subject.draws(0.15, most=10**12) * SCORED // DRAWS)
        rows = subject.fewer(max(2, most))
        options: Any = {"seed": subject.seed_of("surgery"), "max_elements": subject.max_elements}
        found = surgery(subject.pair, rows, num_samples=DRAWS, **options)
        weak = found.mutual_information < BIT and not found.saturated
        status: Status = "bad" if found.collapsed else "doubtful" if weak else "good"
        dimensions = found.dimensions()
        alt = (
            f"What each of {max(1, len(dimensions))} latent dimensions tells of its datum, and what it is off the "
            f"prior, as bars: the code tells {found.mutual_information:.2f} nats in all, of at most {found.ceiling:.2f}"
        )
        pictures = (Picture(lambda ax=None: found.plot(ax=ax), alt),)
        table = dimensions if len(dimensions) else found.to_dataframe()
        return self.finding(status, repr(found), advice=REMEDIES, pictures=pictures, table=table)


class ActiveDimensions(Check):
    """Dimensions whose posterior mean moves with the datum."""

    name = "active dimensions"
    question = "Which latent dimensions move with the datum?"
    threshold = "active: a variance of the posterior mean over the data above 0.01; good: half of them, bad: none"
    source = "Yuri Burda, Roger Grosse, Ruslan Salakhutdinov: Importance weighted autoencoders, 2016"

    def applies(self, subject: Subject) -> str:
        """Where data have continuous latents of their own."""
        if why := _no_codes(subject):
            return why
        site = subject.pair.latents
        continuous = [name for name in subject.local_latents if not site[name].is_discrete]
        return "" if continuous else "latents are discrete"

    def ask(self, subject: Subject) -> Finding:
        """By the draws of the guide."""
        options: Any = {"seed": subject.seed_of("active"), "max_elements": subject.max_elements}
        found = active_units(subject.pair, subject.rows, **options)
        status: Status = "bad" if not found.count else "good" if 2 * found.count >= found.total else "doubtful"
        told = f"{found.count} of {found.total} latent dimensions are active"
        advice = (
            REMEDIES if not found.count else "fewer latent dimensions would do, or a floor under their KL (free_bits)"
        )
        return self.finding(status, told, advice=advice, table=found.to_dataframe())


class CodesInUse(Check):
    """Classes of discrete latents."""

    name = "codes in use"
    question = "Are the classes of discrete latents used?"
    threshold = (
        f"good: {COLLAPSED} nats of mutual information and half of the classes alive (at least one datum expected in "
        f"each); bad: less than {COLLAPSED} nats"
    )
    source = "mutual information and dead classes: docs/discrete.md"

    def applies(self, subject: Subject) -> str:
        """Where there are discrete latents of each datum."""
        return "" if discrete_sites(subject.pair) else "there are no discrete latents of each datum"

    def ask(self, subject: Subject) -> Finding:
        """Site by site; the worst counts."""
        import pandas as pd

        found = {
            name: code_usage(subject.pair, subject.rows, name, seed=subject.seed_of("codes"))
            for name in discrete_sites(subject.pair)
        }
        told, worst = [], 0
        for name, usage in found.items():
            information, alive = float(usage.mutual_information.mean()), 1 - float(usage.dead.double().mean())
            worst = max(worst, 2 if information < COLLAPSED else 1 if alive < 0.5 else 0)
            latents, classes = usage.usage.shape
            each = f"{latents} x {classes}" if latents > 1 else str(classes)
            told.append(
                f"{name}: {float(usage.perplexity.mean()):.1f} of {classes} classes in use, {int(usage.dead.sum())} of "
                f"{each} dead, {information:.2f} nats told"
            )
        table = pd.concat({name: usage.to_dataframe() for name, usage in found.items()}, names=["site"])
        pictures = tuple(_bars(name, usage) for name, usage in found.items())
        status: Status = ("good", "doubtful", "bad")[worst]
        advice = "fewer classes, a relaxed or score-function gradient with less noise (docs/discrete.md), more epochs"
        return self.finding(status, "; ".join(told), advice=advice, table=table, pictures=pictures)


def _bars(name: str, usage: Any) -> Picture:
    latents, classes = usage.usage.shape
    alt = (
        f"How often each of {classes} classes of {name!r} is used ({latents} latents): as if "
        f"{float(usage.perplexity.mean()):.1f} were used equally"
    )
    return Picture(lambda ax=None: usage.plot(ax=ax), alt)


def _no_codes(subject: Subject) -> str:
    if subject.pair.counts_volume:
        return "a flow: every dimension of its z moves with the datum"
    if not subject.local_latents:
        return "no datum has latents of its own in the guide"
    return "at least two rows are needed" if len(subject.rows) < 2 else ""
