"""``diagnose``: everything that can be asked of a fit, each with a verdict, a threshold and its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppl_vae._version import __version__
from ppl_vae.diagnostics.diagnosis.check import Check
from ppl_vae.diagnostics.diagnosis.checks import CHECKS
from ppl_vae.diagnostics.diagnosis.result import Diagnosis
from ppl_vae.diagnostics.diagnosis.subject import Subject
from ppl_vae.evidence.chunks import MAX_ELEMENTS

if TYPE_CHECKING:
    from ppl_vae.pair import Fitted, Pair

__all__ = ["diagnose"]

SECONDS = 60.0


def diagnose(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    train: Any = None,
    names: Sequence[Any] | None = None,
    noun: str = "rows",
    columns: str = "columns",
    image_shape: tuple[int, ...] | None = None,
    seconds: float = SECONDS,
    thorough: bool = False,
    checks: Sequence[Check] = CHECKS,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Diagnosis:
    """Ask everything that applies: is the fit done, is log p(x) known, is the guide the posterior, are codes used, ...

    Each check ends in a finding, "good", "doubtful" or "bad", with the threshold that it was held against and where
    this is from; or in "not asked", with the reason. A check that raises an error loses none of the others. Print the
    result, or ``save("report.html")`` it. No finding proves a fit right: docs/diagnose.md says when each of them lies.

    Args:
        pair: a Fit, or a Pair (which has no record, so that less is asked).
        data: N rows, best those that were not trained on; by default the rows of the fit. With latents that all data
            share, what concerns the posterior is asked of the rows of the fit, and rows that are others are new ones.
        train: the rows of the fit; by default those that it has at hand.
        names: of the rows; by default the index of a frame, else their numbers.
        noun, columns: what rows and columns are called, such as "test digits" and "pixels".
        image_shape: (H, W) or (C, H, W) where rows are images, so that the oddest can be seen.
        seconds: about how long it may take: where it would take longer there are fewer draws, then fewer rows (the
            same number for all, spread evenly), then fewer checks. ``float("inf")``: no limit.
        thorough: ask too what takes minutes: log p(x) from both sides, by chains, of up to 50 rows.
        checks: what is asked, in this order.
        seed: of all draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        the Diagnosis.

    Raises:
        ValueError: no rows are given and those of the fit are not at hand; names that are not as many as rows; rows
            that the pair does not take.
    """
    if not seconds > 0:
        raise ValueError(f"diagnose: seconds must be positive, got {seconds!r}")
    subject = Subject.of(
        pair,
        data,
        train=train,
        names=names,
        seconds=seconds,
        seed=seed,
        noun=noun,
        columns=columns,
        image_shape=image_shape,
        thorough=thorough,
        max_elements=max_elements,
    )
    findings = tuple(check.run(subject) for check in checks)
    return Diagnosis(findings, _about(subject))


def _about(subject: Subject) -> dict[str, str]:
    """What was examined, in words."""
    about = dict(subject.fit.summary()) if subject.fit is not None else {}
    given, judged = len(subject.given), len(subject.rows)
    rows = f"{given} {subject.noun}"
    if subject.is_shared and subject.train is not None:
        rows += f", beside the {judged} rows of the fit, whose posterior is judged"
    elif judged < given:
        rows += f", of which {judged} are judged, spread evenly"
    if subject.train is not None and not subject.is_shared:
        rows += f"; beside {len(subject.train)} rows of the fit"
    return {**about, "judged on": rows, "made with": f"ppl_vae {__version__}, seed {subject.seed}"}
