"""The certificate of a fit: what was asked of it, what was found, and in a sentence whether to believe it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Certificate", "Line"]

_HEADER = ("", "found", "asked for", "holds")
_AT = 0.005
"""Nats below log Z that no one asks for."""


@dataclass(frozen=True)
class Line:
    """One thing that was asked.

    Attributes:
        what: in words.
        found: what was found, as a person reads it.
        asked: what was asked for.
        holds: does it hold? None: it could not be asked of this fit, and is no condition.
        advice: what to try where it does not.
        about: "optimum" (is this the best of its family?) or "posterior" (is it the posterior?).
    """

    what: str
    found: str
    asked: str
    holds: bool | None
    advice: str = ""
    about: str = "optimum"


@dataclass(frozen=True)
class Certificate:
    """Whether a fit is done, line by line. It is given only if every line holds.

    Attributes:
        lines: what was asked.
        numbers: what the lines were made of, by name: ``elbo``, ``elbo_error``, ``log_evidence``,
            ``log_evidence_error``, ``khat`` and others, in nats where they are log densities; None: not known.
        remarks: what is worth to know beside.

    >>> line = Line("Newton decrement", "0.2 nats", "at most 0.01", False, "raise max_iter")
    >>> Certificate((line,))
    Certificate: not given
                         found      asked for      holds
      Newton decrement   0.2 nats   at most 0.01   no
    Not known to be the best of its family: Newton decrement (0.2 nats). To try: raise max_iter.
    """

    lines: tuple[Line, ...]
    numbers: dict[str, float | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Does every line hold that was asked, and was any?"""
        return self._hold("optimum", "posterior")

    @property
    def converged(self) -> bool:
        """Is this the best of its family, whether or not the family holds the posterior?"""
        return self._hold("optimum")

    def _hold(self, *about: str) -> bool:
        asked = [line.holds for line in self.lines if line.holds is not None and line.about in about]
        return bool(asked) and all(asked)

    def __bool__(self) -> bool:
        return self.given

    @property
    def failed(self) -> list[Line]:
        """The lines that do not hold."""
        return [line for line in self.lines if line.holds is not None and not line.holds]

    @property
    def sentence(self) -> str:
        """The answer in words."""
        searched = any(line.about == "optimum" and line.holds is None for line in self.lines)
        if self.given and searched:
            best = "whether the fit is the best of its family was not asked"
            return f"Good: {best}, but its draws may be taken for the posterior's."
        if self.given:
            best = f"Converged: the fit is the best of its family{self._beside_log_z}"
            return f"{best}; its draws may be taken for the posterior's."
        failed = "; ".join(f"{line.what} ({line.found})" for line in self.failed)
        advice = "; ".join(dict.fromkeys(line.advice for line in self.failed if line.advice))
        if searched:
            start = "Its draws may not be taken for the posterior's"
        elif self.converged:
            start = "Converged: the fit is the best of its family, but its draws may not be taken for the posterior's"
        else:
            start = "Not known to be the best of its family"
        return f"{start}: {failed}." + (f" To try: {advice}." if advice else "")

    @property
    def elbo(self) -> str:
        """The ELBO on fresh draws in words; "" where it is not known."""
        value, error = self.numbers.get("elbo"), self.numbers.get("elbo_error")
        return "" if value is None else nats(value, math.nan if error is None else error)

    @property
    def _beside_log_z(self) -> str:
        """How far log Z is from the ELBO: KL(q || p)."""
        gap = self.numbers.get("gap")
        if gap is None or not math.isfinite(gap):
            return ""
        return " and stands at log Z" if gap < _AT else f" and stands {gap:.2g} nats below log Z"

    def plain(self) -> dict[str, Any]:
        """All of it as a plain tree, as a run folder keeps it."""
        known = {n: None if v is None or not math.isfinite(v) else float(v) for n, v in self.numbers.items()}
        return {"lines": [asdict(line) for line in self.lines], "numbers": known, "remarks": list(self.remarks)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Certificate:
        """The certificate whose :meth:`plain` this is; what a later version has put beside is passed over."""
        known = {part.name for part in fields(Line)}
        lines = tuple(Line(**{n: v for n, v in line.items() if n in known}) for line in plain["lines"])
        return cls(lines, dict(plain["numbers"]), tuple(plain["remarks"]))

    def table(self) -> pd.DataFrame:
        """The lines as a frame: what, found, asked, holds."""
        import pandas as pd

        rows = [(line.what, line.found, line.asked, line.holds) for line in self.lines]
        return pd.DataFrame(rows, columns=["what", "found", "asked", "holds"])

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        said = {True: "yes", False: "no", None: "not asked"}
        for line in self.lines:
            yield line.what, line.found, line.asked, said[line.holds]

    def __repr__(self) -> str:
        rows = [_HEADER, *self._rows()] if self.lines else []
        widths = [max(len(row[i]) for row in rows) for i in range(3)] if rows else []
        body = ["  " + "   ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        head = f"Certificate: {'given' if self.given else 'not given'}"
        return "\n".join([head, *body, self.sentence, *self.remarks])

    def _repr_html_(self) -> str:
        cells = "<tr>" + "".join(f"<th>{name}</th>" for name in _HEADER) + "</tr>"
        cells += "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows()
        )
        said = " ".join(html.escape(text) for text in (self.sentence, *self.remarks))
        caption = "given" if self.given else "not given"
        return f"<table><caption>Certificate: {caption}</caption>{cells}</table><p>{said}</p>"


def nats(value: float, error: float | None = None) -> str:
    """A number of nats in words, with its standard error.

    >>> nats(-1897.3021, 0.0012), nats(1e-9), nats(math.inf)
    ('-1897.3021 ± 0.0012 nats', '1e-09 nats', 'unbounded')
    """
    if not math.isfinite(value):
        return {math.inf: "unbounded", -math.inf: "minus infinity"}.get(value, "not a number")
    if error is None:
        return f"{value:.2g} nats"
    if not math.isfinite(error):
        return f"{value:.4g} nats, error unknown"
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 4
    return f"{value:.{min(digits, 6)}f} ± {error:.{min(digits, 6)}f} nats"
