"""Latents that all data share: are the guide's means and sds the posterior's, and does each row hold up left out?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.data.source import whole
from ppl_vae.diagnostics.collapse import labels_of
from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.checks.rows import oddest
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject
from ppl_vae.evidence import WeightedDraws, weighted_draws
from ppl_vae.evidence.conditional import Integration
from ppl_vae.evidence.importance import WIDTHS
from ppl_vae.evidence.self_normalized import MomentErrors, moments_apart
from ppl_vae.evidence.shared_draws import shared_draws

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LeftOut", "Moments"]

MEAN, FAR = 0.1, 0.5
"""Posterior sds by which means may be off, and by which they are bad."""
SD, WRONG = 1.1, 1.5
"""Factors by which sds may be off, either way, and by which they are bad."""
ERRORS = 2.0
MOST = 4000


class Moments(Check):
    """Means and sds of the guide beside those of its weighted draws."""

    name = "posterior moments"
    question = "Are the guide's means and standard deviations those of the posterior?"
    threshold = (
        f"beyond {ERRORS:g} Monte Carlo errors: good: means off by at most {MEAN} posterior sd, sds within a factor of "
        f"{SD}; bad: {FAR} sd, a factor of {WRONG}; doubtful where k-hat forbids to tell"
    )
    source = (
        "the lines of the certificate, docs/convergence.md; weights: Aki Vehtari, Daniel Simpson, Andrew Gelman, "
        "Yuling Yao, Jonah Gabry: Pareto smoothed importance sampling, 2024"
    )

    def applies(self, subject: Subject) -> str:
        """Where all data share continuous latents that the guide draws."""
        return "" if _shared(subject) else "no continuous latents in the guide are shared by all data"

    def ask(self, subject: Subject) -> Finding:
        """By weighted draws of the guide and of the guide with a wider spread."""
        names = _shared(subject)
        count = subject.draws(0.1, most=MOST, each=len(subject.rows))
        draws = _weighted(subject, count)
        values = draws.values
        guide = subject.pair.draw(whole(subject.rows), count, seed=subject.seed_of("guide's draws")).values
        flat = [torch.cat([v[name].double().reshape(len(v[name]), -1) for name in names], 1) for v in (guide, values)]
        found = moments_apart(flat[0], flat[1], draws.log_weight)
        labels = [label for name in names for label in labels_of(name, values[name][0])]
        table = _table(found, labels)
        advice = (
            "weighted draws (fit.weighted_draws) where k-hat allows them; else a full covariance, a flow, NonCentred, "
            'or guide="auto"'
        )
        if draws.warning:
            return self.finding("doubtful", f"cannot be told: {draws.warning}", advice=advice, table=table)
        worst = int(found.mean.abs().argmax())
        off = int(found.sd.log().abs().argmax())
        said = (
            f"means are off by at most {float(found.mean[worst].abs()):.2f} ± {float(found.mean_error[worst]):.1g} "
            f"posterior sd ({labels[worst]}), sds are {float(found.sd[off]):.2f} ± {float(found.sd_error[off]):.1g} "
            f"times the posterior's at worst ({labels[off]})"
        )
        return self.finding(_of_moments(found), said, advice=advice, table=table)


def _shared(subject: Subject) -> list[str]:
    return [name for name, site in subject.pair.latents.items() if not site.is_local and not site.is_discrete]


def _weighted(subject: Subject, count: int) -> WeightedDraws:
    """Of the shared latents; where data have latents of their own, these are integrated out of the weights."""
    options: Any = {"seed": subject.seed_of("moments")}
    if not subject.local_latents:
        return weighted_draws(subject.pair, subject.rows, count, max_elements=subject.max_elements, **options)
    how = Integration("auto", 32, WIDTHS, subject.max_elements)
    return shared_draws(subject.pair, whole(subject.rows), count, how, who="diagnose", **options).draws


def _of_moments(found: MomentErrors) -> Status:
    means = (found.mean.abs() - ERRORS * found.mean_error.nan_to_num(0.0)).clamp(min=0.0)
    # An sd that is off by its Monte Carlo error alone is not off: the factor is taken at the nearer end.
    error = ERRORS * found.sd_error.nan_to_num(0.0)
    factor = torch.maximum(found.sd - error, 1 / (found.sd + error)).clamp(min=1.0)
    if float(means.max()) > FAR or float(factor.max()) > WRONG:
        return "bad"
    return "good" if float(means.max()) <= MEAN and float(factor.max()) <= SD else "doubtful"


def _table(found: MomentErrors, labels: list[str]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Tensor] = {
        "mean off by (sd)": found.mean,
        "its error": found.mean_error,
        "sd over the posterior's": found.sd,
        "error of that": found.sd_error,
    }
    return pd.DataFrame({name: v.numpy() for name, v in columns.items()}, index=pd.Index(labels, name="latent"))


class LeftOut(Check):
    """Leave-one-out of the rows of the fit."""

    name = "leave-one-out"
    question = "What does the fit say of each of its rows when it is left out?"
    threshold = "good: every row's k-hat within min(1 - 1/log10 S, 0.7), its error known; bad: less than half of them"
    source = (
        "Aki Vehtari, Andrew Gelman, Jonah Gabry: Practical Bayesian model evaluation using leave-one-out "
        "cross-validation and WAIC, 2017; Mans Magnusson, Michael Riis Andersen, Johan Jonasson, Aki Vehtari: Bayesian "
        "leave-one-out cross-validation for large data, 2019"
    )

    def applies(self, subject: Subject) -> str:
        """Where latents are shared; points are judged by rows held out."""
        if subject.is_shared:
            return ""
        return "no latents are shared, and parameters are points: rows held out judge them (new rows)"

    def ask(self, subject: Subject) -> Finding:
        """By weighted draws of the shared latents."""
        found = subject.loo
        good = float(found.reliable.double().mean())
        status: Status = "good" if good == 1 else "bad" if good < 0.5 else "doubtful"
        alt = (
            f"k-hat of {len(found.khat)} rows left out, sorted, at most "
            f"{float(found.khat.nan_to_num(torch.inf).max()):.2f}, with the limit of {found.khat_limit:.2f}"
        )
        pictures = (Picture(lambda ax=None: found.plot(ax=ax), alt),)
        said = f"{found!r}".removeprefix("LeaveOneOut(").removesuffix(")")
        return self.finding(status, said, advice=found.warning, pictures=pictures, table=oddest(subject.known_scores))
