"""Is log p(x) known, is the guide the posterior, and how far does the ELBO lie below?"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ppl_vae.diagnostics.comparison import nats
from ppl_vae.diagnostics.diagnosis.check import REFUSALS, Check
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject
from ppl_vae.diagnostics.khat import khat
from ppl_vae.evidence import InferenceGap, inference_gap
from ppl_vae.evidence.evidence import percent
from ppl_vae.evidence.pooling import KHAT_LIMIT
from ppl_vae.plots.khat_points import khat_points

__all__ = ["Gap", "GuideTails", "LogEvidence", "by_share"]

FEW, HALF = 0.95, 0.5
"""The share of rows from which on all is well, and below which it is not."""
LARGE = 0.5
"""Nats: what a normal costs whose mean is one standard deviation off."""
SPLIT, SEARCH, SHARE = 100, 5_000, 0.2
"""Rows whose gap is split, at most; draws of a row that the search takes, about; its share of the time."""


def by_share(flags: Tensor) -> Status:
    """Good where it holds for 95 % of the rows, bad where for less than half."""
    share = float(flags.double().mean())
    return "good" if share >= FEW else "bad" if share < HALF else "doubtful"


class LogEvidence(Check):
    """May the estimate of log p(x) be taken for it?"""

    name = "log p(x)"
    question = "Is the estimate of log p(x) to be believed?"
    threshold = (
        "reliable: k-hat, but for its noise, below min(1 - 1/log10 K, 0.7), ESS at least 2, the error known; good: 95 "
        "% of the rows, bad: less than half, or a row of probability 0"
    )
    source = (
        "Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry: Pareto smoothed importance sampling, 2024"
    )

    def applies(self, subject: Subject) -> str:
        """To every pair; what has no evidence says so itself."""
        return ""

    def ask(self, subject: Subject) -> Finding:
        """By the evidence of the decomposition."""
        evidence = subject.pieces.evidence
        number = f"log p(x) is {_in_words(subject)}"
        if bool(evidence.value.isneginf().any()):
            gone = int(evidence.value.isneginf().sum())
            return self.finding(
                "bad", f"{number}; {gone} of {evidence.value.numel()} {subject.noun} have probability 0"
            )
        if evidence.bound == "exact":
            return self.finding("good", f"{number}, exactly")
        status, reliable = by_share(evidence.reliable), evidence.reliable
        if not reliable.dim():
            told = "the estimate is reliable" if bool(reliable) else "the estimate is not reliable"
            told += f" (k-hat {float(evidence.khat):.2f}, ESS {float(evidence.ess):.0f})"
        else:
            told = f"the estimate is reliable for {int(reliable.sum())} of {reliable.numel()} {subject.noun}"
        advice = "more draws, a richer guide, or an estimator that owes it less (Annealed, Laplace; docs/evidence.md)"
        pictures = _khats(evidence.khat, evidence.khat_limit)
        return self.finding(status, f"{number}; {told}", advice=advice, pictures=pictures)


def _in_words(subject: Subject) -> str:
    mean = subject.pieces.evidence.mean()
    unit = "nats per row" if subject.pieces.elbo.dim() else f"nats for all {len(subject.rows)} {subject.noun} together"
    error = "" if subject.pieces.evidence.bound == "exact" else f" (Monte Carlo error {mean.error_in_words('.2g')})"
    below = f", too low by about {mean.shortfall:.2g}" if mean.shortfall > 0 else ""
    return f"{mean.value:.3f} {unit}{error}{below}"


def _khats(found: Tensor, limit: float) -> tuple[Picture, ...]:
    known = found.reshape(-1)
    known = known[~known.isnan()]
    if len(known) < 2:
        return ()
    alt = (
        f"k-hat of {len(known)} rows, sorted: from {float(known.min()):.2f} to {float(known.max()):.2f}; "
        f"{percent(known < limit)} below the limit of {limit:.2f}"
    )
    return (Picture(lambda ax=None: khat_points(found, limit=limit, ax=ax), alt),)


class GuideTails(Check):
    """k-hat of the guide's own draws."""

    name = "guide"
    question = "Does the guide reach what the posterior holds?"
    threshold = (
        "k-hat of the guide's own draws: below 0.5 it serves as it is, up to 0.7 with weights; good: below 0.7 for 95 "
        "% of the rows, bad: for less than half"
    )
    source = (
        "Yuling Yao, Aki Vehtari, Daniel Simpson, Andrew Gelman: Yes, but did it work? Evaluating variational "
        "inference, 2018"
    )

    def applies(self, subject: Subject) -> str:
        """Where the evidence is not exact."""
        exact = subject.pieces.evidence.bound == "exact"
        return "nothing is estimated by the guide's draws: the evidence is exact" if exact else ""

    def ask(self, subject: Subject) -> Finding:
        """By draws of its own."""
        options: Any = {"seed": subject.seed_of("guide"), "max_elements": subject.max_elements}
        found = khat(subject.pair, subject.rows, num_samples=subject.num_samples, **options)
        if bool(found.isnan().all()):
            return self.finding("doubtful", "k-hat is not known: too few draws, or weights that are none")
        below = found < KHAT_LIMIT
        if found.dim():
            half = percent(found < 0.5)
            told = f"{percent(below)} of {len(found)} {subject.noun} have k-hat < {KHAT_LIMIT}, {half} < 0.5"
        else:
            told = f"k-hat is {float(found):.2f}"
        advice = "a guide with heavier tails or correlations: a full covariance, a flow (guides.AmortizedFlow)"
        return self.finding(by_share(below), told, advice=advice, pictures=_khats(found, KHAT_LIMIT))


class Gap(Check):
    """KL(q || p(z | x)), and where it can be had, whether the family or the network costs it."""

    name = "gap"
    question = "How far does the ELBO lie below log p(x), and what costs it?"
    threshold = (
        f"good: at most {LARGE} nats, as much as a normal costs whose mean is one standard deviation off; bad: as much "
        "as, or more than, KL(q || prior), so that the prior is as near to the guide as the posterior"
    )
    source = "Chris Cremer, Xuechen Li, David Duvenaud: Inference suboptimality in variational autoencoders, 2018"

    def applies(self, subject: Subject) -> str:
        """Where there are latents with a guide."""
        return "" if subject.pair.latents else "the guide has no latents"

    def ask(self, subject: Subject) -> Finding:
        """By the decomposition, and where there is much to split, by a search for the best member of the family."""
        pieces, gap = subject.pieces, float(subject.pieces.gap.mean())
        said = subject.judged.on_gap()
        if math.isnan(gap):
            return self.finding("doubtful", said)
        if gap <= LARGE:
            return self.finding(_of_small(pieces.evidence.reliable), said, advice="an estimate that can be believed")
        status: Status = "bad" if gap >= float(pieces.kl.mean()) else "doubtful"
        found, why = _split(subject)
        if found is None:
            advice = "a richer family of guides (full covariance, a flow), a larger encoder, more steps of it"
            return self.finding(status, f"{said}; not split: {why}", advice=advice)
        means = found.mean()
        family, network = (max(0.0, means[name]) for name in ("approximation", "amortization"))
        told = (
            f"of {len(found.elbo)} rows {nats(means['gap'])} nats: {nats(family)} for the guide's family "
            f"({found.family}), {nats(network)} for its network"
        )
        advice = (
            "a richer family: a full covariance, a flow (guides.AmortizedFlow)"
            if family >= network
            else "a larger encoder, or more steps of it (Alternating(e_steps=5))"
        )
        alt = f"The gap of each of {len(found.elbo)} rows in two parts, for the family and for the network: {told}"
        pictures = (Picture(lambda ax=None: found.plot(ax=ax), alt),)
        return self.finding(status, f"{said}; {told}", advice=advice, pictures=pictures)


def _of_small(reliable: Tensor) -> Status:
    return "good" if by_share(reliable) == "good" else "doubtful"


def _split(subject: Subject) -> tuple[InferenceGap | None, str]:
    """The split of the gap on as many rows as there is time for; or why there is none."""
    if subject.is_shared:
        return None, "one guide serves the latents of all data, and no network"
    count = subject.draws(SHARE, most=SEARCH * SPLIT, least=1) // SEARCH
    if count < 10:
        return None, f"the search would take longer than {SHARE * subject.pace.seconds:.0f} s; raise seconds"
    options: Any = {"seed": subject.seed_of("gap"), "max_elements": subject.max_elements}
    try:
        return inference_gap(subject.pair, subject.fewer(count), **options), ""
    except REFUSALS as error:
        return None, " ".join(str(error).split())
