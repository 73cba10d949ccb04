"""What one check has found: a status, a sentence, the threshold that it was held against, and where this is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["STATUSES", "Finding", "Picture", "Status"]

Status = Literal["good", "doubtful", "bad", "not asked"]
STATUSES: tuple[Status, ...] = ("bad", "doubtful", "good", "not asked")
"""The worst first."""


@dataclass(frozen=True)
class Picture:
    """A figure, and what it shows in words.

    Attributes:
        draw: takes ``ax=`` and draws there.
        alt: for those who do not see it: what is drawn, and what it shows.
        is_photo: are its colours those of the data, so that a dark page must not turn them round?
        size: width and height, inches.
    """

    draw: Callable[..., Any]
    alt: str
    is_photo: bool = False
    size: tuple[float, float] = (4.6, 3.2)


@dataclass(frozen=True, eq=False)
class Finding:
    """A line of a :class:`Diagnosis`.

    Attributes:
        name: of the check, such as "calibration".
        question: what it asks.
        status: "good", "doubtful", "bad"; or "not asked", and the sentence says why.
        sentence: what was found.
        threshold: what it was held against: which numbers are good, and which are bad.
        source: where the threshold, or the method, is from.
        advice: what to try; where nothing is wrong, nothing.
        pictures: figures.
        table: numbers; None where there are none.
        failed: did the check break down by an error that is no refusal?
        seconds: it took.

    >>> Finding("gap", "How far is the ELBO from log p(x)?", "good", "0.1 nats", "at most 0.5 nats", "Cremer 2018")
    good: gap: 0.1 nats
    """

    name: str
    question: str
    status: Status
    sentence: str
    threshold: str
    source: str
    advice: str = ""
    pictures: tuple[Picture, ...] = ()
    table: pd.DataFrame | None = None
    failed: bool = False
    seconds: float = 0.0

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """The first figure.

        Raises:
            ValueError: there is none.
        """
        if not self.pictures:
            raise ValueError(f"Finding.plot: {self.name!r} has no figure")
        axes: Axes = self.pictures[0].draw(ax=ax)
        return axes

    def __repr__(self) -> str:
        return f"{self.status}: {self.name}: {self.sentence}"
