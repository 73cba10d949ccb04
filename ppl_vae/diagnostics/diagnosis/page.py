"""The diagnosis as one page: everything inside it, no script, nothing fetched."""

from __future__ import annotations

import base64
import io
import math
import numbers
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from ppl_vae.diagnostics.diagnosis.finding import STATUSES, Finding, Picture, Status

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.diagnostics.diagnosis.result import Diagnosis

__all__ = ["page_of"]

TEMPLATE = "report.html"
SYMBOLS = {"bad": "✗", "doubtful": "?", "good": "✓", "not asked": "–"}
"""Beside the word, since colours alone tell not everybody."""
MOST_LINES = 30
"""Of a table."""
DPI = 160


@dataclass(frozen=True)
class _Image:
    """A PNG in base64; "" where the figure could not be drawn, and the caption says why."""

    data: str
    alt: str
    caption: str
    kind: str
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class _Cell:
    text: str
    is_words: bool


@dataclass(frozen=True)
class _Line:
    name: str
    cells: list[_Cell]


@dataclass(frozen=True)
class _Table:
    head: list[_Cell]
    rows: list[_Line]
    more: str


def page_of(diagnosis: Diagnosis) -> str:
    """The page, in HTML; every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    findings = sorted(diagnosis.findings, key=lambda finding: STATUSES.index(finding.status))
    return template.render(
        headline=diagnosis.headline,
        worst=_worst(findings),
        asked=[_shown(finding) for finding in findings if finding.status != "not asked"],
        rest=[finding for finding in findings if finding.status == "not asked"],
        about=dict(diagnosis.about),
        statuses=STATUSES,
        symbols=SYMBOLS,
    )


def _worst(findings: list[Finding]) -> Status:
    return findings[0].status if findings else "not asked"


def _shown(finding: Finding) -> dict[str, Any]:
    return {
        **{name: getattr(finding, name) for name in ("name", "status", "question", "sentence", "threshold", "source")},
        "advice": finding.advice,
        "pictures": [_image(picture) for picture in finding.pictures],
        "table": None if finding.table is None or finding.table.empty else _table(finding.table),
    }


def _image(picture: Picture) -> _Image:
    """Drawn on a transparent ground, for light and dark pages; a figure that cannot be drawn loses no page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=picture.size, dpi=DPI, layout="constrained")
    file = io.BytesIO()
    kind = "photo" if picture.is_photo else "plot"
    try:
        picture.draw(ax=figure.add_subplot())
        figure.savefig(file, format="png", transparent=True, metadata={"Software": None})
    except Exception as error:
        return _Image("", picture.alt, f"The figure could not be drawn ({type(error).__name__}). {picture.alt}", kind)
    width, height = (round(DPI * inches) for inches in picture.size)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return _Image(data, picture.alt, picture.alt, kind, width, height)


def _table(frame: pd.DataFrame) -> _Table:
    some = frame.head(MOST_LINES)
    names = [str(name) for name in frame.index.names if name is not None]
    lines = [
        _Line(_name(label), [_cell(value) for value in row])
        for label, row in zip(some.index, some.itertuples(index=False, name=None), strict=True)
    ]
    head = [_Cell(", ".join(names), True)]
    head += [_Cell(str(column), bool(lines) and lines[0].cells[i].is_words) for i, column in enumerate(frame.columns)]
    return _Table(head, lines, f" (the first {MOST_LINES} of {len(frame)} lines)" if len(frame) > MOST_LINES else "")


def _name(label: Any) -> str:
    return ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _cell(value: Any) -> _Cell:
    """A number in four digits, a yes or a no, or words; nothing where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _Cell("", False)
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return _Cell("yes" if value else "no", False)
    if isinstance(value, numbers.Integral):
        return _Cell(str(value), False)
    if isinstance(value, numbers.Real):
        return _Cell(f"{float(value):.4g}", False)
    return _Cell(str(value), True)
