"""Do rows that the fit has not seen score as those that it has, which rows are odd, and is it worth the effort?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.diagnostics.baseline import unchanging
from ppl_vae.diagnostics.comparison import RANGES, Difference, depth, far_out, listed, on_scores, strays
from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.finding import Finding, Picture, Status
from ppl_vae.diagnostics.diagnosis.subject import Scores, Subject
from ppl_vae.pair.units import DATA, shown
from ppl_vae.plots.images import images
from ppl_vae.plots.log_p_points import log_p_points

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BeatsBaselines", "NewRows", "OddRows"]

ERRORS = 2.0
"""A difference of more of its standard errors is not taken for chance."""
ODDEST = 10
"""Rows that are shown."""


class NewRows(Check):
    """The mean score beside that of the rows of the fit."""

    name = "new rows"
    question = "Do rows that the fit has not seen score like those that it was fitted to?"
    threshold = (
        f"good: no more than {ERRORS:g} standard errors below, nor made so by few rows far out; bad: below by more "
        "than they are above independent columns, so that more was learned by heart than carries over, or a row of "
        "probability 0"
    )
    source = "difference of two means, choice of rows and Monte Carlo errors together"

    def applies(self, subject: Subject) -> str:
        """Where rows of the fit are at hand, and the given ones are others."""
        if subject.train is None:
            return "the rows of the fit are not at hand beside the given ones (train=), or are the same"
        if subject.pair.takes("index") and not subject.is_shared:
            return "the pair keeps parameters for each row of the fit"
        if subject.train.columns != subject.given.columns:
            return "the rows of the fit have other columns"
        return ""

    def ask(self, subject: Subject) -> Finding:
        """By the mean of log p; with shared latents, of rows that were left out of the fit."""
        scores, known = subject.scores, subject.known_scores
        error = (scores.monte_carlo**2 + known.monte_carlo**2) ** 0.5
        said = "; ".join(on_scores(scores.value, known.value, names=scores.names, noun=subject.noun, monte_carlo=error))
        if bool(scores.value.isneginf().any()):
            return self.finding("bad", said)
        apart = Difference.of_samples(scores.value, known.value, error)
        margins = [float((scores.value - b.value).mean()) for b in subject.baselines[:1]]
        status: Status = "good"
        if not apart.value >= -ERRORS * apart.error:
            status = "bad" if margins and -apart.value > margins[0] else "doubtful"
        elif apart.value < 0 and far_out(scores.value, float(known.value.mean()), scores.names) is not None:
            status = "doubtful"  # few rows make the difference, and its error with it
        advice = (
            "more data, a smaller model, weight decay (lr=..., weight_decay=...), KeepBest on validation rows; where "
            "few rows make the difference, look at them"
        )
        return self.finding(status, said, advice=advice, table=_beside(scores, known))


def _beside(scores: Scores, known: Scores) -> pd.DataFrame:
    import pandas as pd

    parts = {"rows of the fit": known, "given rows": scores}
    rows = {
        f"{name}: {part.what}": {
            "rows": len(part.value),
            "mean": float(part.value.mean()),
            "median": float(part.value.median()),
            "least": float(part.value.min()),
            "sd over rows": float(part.value.std()),
        }
        for name, part in parts.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("nats per row")


class OddRows(Check):
    """The rows of the least log p, by name."""

    name = "odd rows"
    question = "Which rows does the model find oddest, and are they of another kind?"
    threshold = (
        f"doubtful: a row lies {RANGES:g} times the range from the tenth to the 90th percentile below the tenth (among "
        "normal numbers: 14 standard deviations from the mean); bad: a row of probability 0"
    )
    source = "a rule that tails of exponential and chi-squared laws keep; docs/diagnose.md"

    def applies(self, subject: Subject) -> str:
        """Where rows have scores of their own."""
        return "" if len(subject.given) >= 2 else "at least two rows are needed"

    def ask(self, subject: Subject) -> Finding:
        """By all rows that were given, those that are not judged by their ELBO."""
        scores = subject.screened
        table = oddest(scores)
        said, status = _of_strays(subject, scores)
        least = ", ".join(f"{name} ({value:.1f})" for name, value in table[scores.what].head(3).items())
        looked = "" if len(scores.value) == len(subject.given) else f" of {len(scores.value)} looked at"
        advice = "look at these rows: errors of the data, another kind of rows, or what the model lacks"
        pictures = (_points(scores, least), *_photos(subject, scores))
        told = f"{said}; the least {scores.what}{looked}: {least} nats"
        return self.finding(status, told, advice=advice, table=table, pictures=pictures)


def oddest(scores: Scores, count: int = ODDEST) -> pd.DataFrame:
    """The rows of the least scores by name: score, error, k-hat, and how far below the median they lie."""
    import pandas as pd

    value = scores.value
    order = value.nan_to_num(-torch.inf).argsort(stable=True)[:count].tolist()
    columns = {
        scores.what: value,
        "standard error": scores.error,
        "k-hat": scores.khat,
        "sds below the median": depth(value),
    }
    known = {name: column[order].numpy() for name, column in columns.items() if not bool(column.isnan().all())}
    return pd.DataFrame(known, index=pd.Index([scores.names[i] for i in order], name="row"))


def _of_strays(subject: Subject, scores: Scores) -> tuple[str, Status]:
    value, noun = scores.value, subject.noun
    if bool(value.isneginf().any()):
        return on_scores(value, None, names=scores.names, noun=noun)[0], "bad"
    found = strays(value)
    if not len(found):
        return f"none of {len(value)} {noun} lies far below the others", "good"
    lack = (value.nanmedian() - value).clamp(min=0.0)
    share = min(99, round(100 * float(lack[found].sum() / lack.nansum())))
    verbs = ("lies", "makes") if len(found) == 1 else ("lie", "make")
    named = listed([scores.names[i] for i in found.tolist()])
    told = f"{len(found)} of {len(value)} {noun} {verbs[0]} far below all others, and {verbs[1]} {share} % of what lies"
    return f"{told} below the median: {named}", "doubtful"


def _points(scores: Scores, least: str) -> Picture:
    alt = f"{scores.what} of {len(scores.value)} rows, sorted; the least by name: {least} nats"
    return Picture(lambda ax=None: log_p_points(scores.value, names=list(scores.names), ax=ax), alt)


def _photos(subject: Subject, scores: Scores) -> tuple[Picture, ...]:
    """The oddest rows as they look, where rows are images."""
    shape = subject.image_shape
    if shape is None or (scores.names is not subject.names and len(scores.value) != len(subject.given)):
        return ()
    order = scores.value.nan_to_num(-torch.inf).argsort(stable=True)[:ODDEST]
    rows = subject.rows if scores.names is subject.names else subject.given
    taken: Tensor = shown(subject.pair, {DATA: rows.take(order).args[0].cpu()})[DATA]
    names = ", ".join(str(scores.names[i]) for i in order.tolist())
    alt = f"The {len(order)} oddest rows as images, the oddest first: {names}"

    def draw(ax: Any = None) -> Any:
        return images(taken, columns=min(5, len(order)), shape=shape, ax=ax)

    return (Picture(draw, alt, is_photo=True, size=(4.6, 2.0)),)


class BeatsBaselines(Check):
    """The mean score beside those of simple models."""

    name = "baselines"
    question = "Is it better than independent columns, or one normal?"
    threshold = f"good: above every baseline by more than {ERRORS:g} standard errors; bad: below one by as much"
    source = (
        "paired differences over the same rows; the normal's covariance: Olivier Ledoit, Michael Wolf: A "
        "well-conditioned estimator for large-dimensional covariance matrices, 2004"
    )

    def applies(self, subject: Subject) -> str:
        """Where there are rows of the fit, and a simple model whose density has the same unit."""
        if subject.is_shared:
            return "latents are shared by all data: rows have no log p of their own"
        if subject.train is None:
            return "the rows of the fit are not at hand beside the given ones (train=), or are the same"
        if subject.baselines:
            return ""
        why = unchanging(subject.pair, subject.train, columns=subject.columns)
        return why or "no simple model has a density of the same unit (masks, several kinds of numbers)"

    def ask(self, subject: Subject) -> Finding:
        """Row by row."""
        import pandas as pd

        scores = subject.scores
        margins = {b.name: Difference.of_pairs(scores.value, b.value, scores.monte_carlo) for b in subject.baselines}
        clear = [m.value - ERRORS * m.error > 0 for m in margins.values()]
        lost = [m.value + ERRORS * m.error < 0 for m in margins.values()]
        status: Status = "bad" if any(lost) else "good" if all(clear) else "doubtful"
        said = f"{subject.noun} score " + ", ".join(f"{margin} {name}" for name, margin in margins.items())
        table = pd.DataFrame(
            {
                "log p of a row": {b.name: float(b.value.mean()) for b in subject.baselines},
                "the fit is above by": {name: m.value for name, m in margins.items()},
                "standard error": {name: m.error for name, m in margins.items()},
            }
        ).rename_axis("baseline")
        advice = "the model has not learned what a simple one knows: more steps, another rate, another likelihood"
        return self.finding(status, said, advice=advice, table=table)
