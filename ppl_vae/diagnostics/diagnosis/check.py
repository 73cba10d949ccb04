"""What a check is: a question that applies to a pair or not, and ends in a finding whatever happens."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from ppl_vae.diagnostics.diagnosis.finding import Finding, Status
from ppl_vae.diagnostics.diagnosis.subject import Subject

__all__ = ["Check"]

LONGEST_REASON = 400  # characters
REFUSALS = (ValueError, NotImplementedError)
"""How diagnostics refuse a pair that they cannot be asked of, in words that say why."""


class Check(ABC):
    """A question. A new one names itself in four fields, and has ``applies`` and ``ask``; it goes into ``CHECKS``.

    Attributes:
        name: one or two words.
        question: in a sentence.
        threshold: what is good, and what is bad.
        source: authors, title, year; or where it is explained.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    threshold: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def applies(self, subject: Subject) -> str:
        """Why it does not apply to this pair; "" where it does."""

    @abstractmethod
    def ask(self, subject: Subject) -> Finding:
        """Ask, by :meth:`finding`. What it refuses is a ValueError."""

    def run(self, subject: Subject) -> Finding:
        """The finding, whatever happens: an error is one too, and loses none of the others."""
        began = time.perf_counter()
        try:
            why = self.applies(subject)
            found = self.finding("not asked", why) if why else self.ask(subject)
        except REFUSALS as error:
            found = self.finding("not asked", f"could not be asked: {_in_a_line(error)}")
        except Exception as error:
            reason = f"could not be asked: it broke down ({type(error).__name__}: {_in_a_line(error)})"
            found = self.finding("not asked", reason, failed=True)
        return replace(found, seconds=time.perf_counter() - began)

    def finding(self, status: Status, sentence: str, **more: Any) -> Finding:
        """A finding of this check; advice stands only where something is wrong."""
        if status in ("good", "not asked"):
            more.pop("advice", None)
        return Finding(self.name, self.question, status, sentence, self.threshold, self.source, **more)


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).partition("Trace Shapes:")[0].split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
