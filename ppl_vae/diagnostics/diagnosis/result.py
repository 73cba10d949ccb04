"""The diagnosis: all findings, as lines, as a frame, as a page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_vae.diagnostics.diagnosis.finding import STATUSES, Finding, Status
from ppl_vae.storage import atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Diagnosis"]

COLUMNS = ("status", "sentence", "threshold", "source", "advice", "seconds")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What all checks that apply have found of a fit.

    Attributes:
        findings: one of each check, in the order in which they were asked.
        about: what was examined, as words: the fit, the rows, the seed.

    >>> line = Finding("gap", "How far is the ELBO below?", "good", "0.1 nats per row", "at most 0.5", "Cremer 2018")
    >>> Diagnosis((line, Finding("guide", "", "bad", "k-hat is 1.2", "0.7", "Yao 2018")))
    Diagnosis: 1 of 2 findings is bad: guide
      good   gap     0.1 nats per row
      bad    guide   k-hat is 1.2
    """

    findings: tuple[Finding, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Is no finding bad, and did no check break down?"""
        return not any(finding.status == "bad" or finding.failed for finding in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, name: str) -> Finding:
        """The finding of this name."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"Diagnosis: no finding {name!r}; there are {', '.join(f.name for f in self.findings)}")

    def of(self, status: Status) -> list[Finding]:
        """Those of this status."""
        return [finding for finding in self.findings if finding.status == status]

    @property
    def headline(self) -> str:
        """The worst in a line."""
        asked = len(self.findings) - len(self.of("not asked"))
        parts = []
        for status in ("bad", "doubtful"):
            if found := self.of(status):
                verb = "is" if len(found) == 1 else "are"
                parts.append(f"{len(found)} of {asked} findings {verb} {status}: {', '.join(f.name for f in found)}")
        if failed := [finding.name for finding in self.findings if finding.failed]:
            parts.append(f"could not be asked, by an error: {', '.join(failed)}")
        return "; ".join(parts) or (f"all {asked} findings are good" if asked else "nothing could be asked")

    def to_dataframe(self) -> pd.DataFrame:
        """One row a finding: status, sentence, threshold, source, advice, seconds."""
        import pandas as pd

        rows = [[getattr(finding, column) for column in COLUMNS] for finding in self.findings]
        index = pd.Index([finding.name for finding in self.findings], name="finding")
        return pd.DataFrame(rows, columns=list(COLUMNS), index=index)

    def save(self, path: str | Path) -> Path:
        """Write one self-contained page: no scripts, nothing from a network, figures inside; see docs/diagnose.md.

        Raises:
            ValueError: the suffix is not .html.
        """
        from ppl_vae.diagnostics.diagnosis.page import page_of

        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"Diagnosis.save: a path that ends in .html is required, got {str(path)!r}")
        atomic_write(path, page_of(self))
        return path

    def __repr__(self) -> str:
        widths = [max((len(text) for text in texts), default=0) for texts in self._columns()]
        lines = [
            f"  {finding.status:<{widths[0]}}   {finding.name:<{widths[1]}}   {finding.sentence}"
            for finding in self.findings
        ]
        return "\n".join([f"Diagnosis: {self.headline}", *lines])

    def _columns(self) -> tuple[list[str], list[str]]:
        return [finding.status for finding in self.findings], [finding.name for finding in self.findings]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{name}</th>' for name in ("finding", "status", "found", "held against"))
        body = "".join(
            f'<tr><th scope="row">{_escaped(f.name)}</th>'
            + "".join(f"<td>{_escaped(text)}</td>" for text in (f.status, f.sentence, f.threshold))
            + "</tr>"
            for f in sorted(self.findings, key=lambda finding: STATUSES.index(finding.status))
        )
        caption = _escaped(f"Diagnosis: {self.headline}")
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _escaped(text: str) -> str:
    return html.escape(text)
