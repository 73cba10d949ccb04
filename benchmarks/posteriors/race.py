"""How long until a method is within a distance of the best ELBO, and stays there?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from posteriors.normal import Judge, Normal

WITHIN = 0.1
GROWTH, LEAST = 1.05, 0.02
"""Looks at a run: each 5 % later than the one before, and 0.02 s at least."""
PATIENCE, SOME_SECONDS = 3.0, 5.0


def processor_seconds() -> float:
    """Seconds of the processor, of this process and of the compilers that it has started and that have ended.

    On one thread these are the seconds of an idle machine, whatever else the machine does.
    """
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


class Unavailable(Exception):
    """A library is not here or cannot do this; the message says why."""


@dataclass
class Race:
    """The clock of one run, which stands still while the run is looked at.

    A run ends at the cap, or once it has been within the distance of ``target`` from some moment until three times that
    moment and five seconds more: what would come after can only speak against it.

    Args:
        judge: what measures the ELBO.
        target: the best ELBO of any full-rank normal, as far as known, nats.
        cap: seconds.
    """

    judge: Judge
    target: float
    cap: float
    compile_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    elbos: list[float] = field(default_factory=list)
    _started: float = field(default_factory=processor_seconds)
    _due: float = 0.0
    _within_since: float | None = None

    def start(self) -> None:
        """Start the clock anew: what came before were imports."""
        self._started = processor_seconds()

    @property
    def now(self) -> float:
        """Seconds of the run so far."""
        return processor_seconds() - self._started

    @property
    def over(self) -> bool:
        """Is the run at its end?"""
        now = self.now
        settled = self._within_since is not None and now >= PATIENCE * self._within_since + SOME_SECONDS
        return settled or now >= self.cap

    def look(self, normal: Callable[[], Normal], *, forced: bool = False) -> None:
        """Measure the run's answer if it is time to."""
        now = self.now
        if now < self._due and not forced:
            return
        paused = processor_seconds()
        elbo = self.judge.elbo(normal())
        self.seconds.append(now)
        self.elbos.append(elbo)
        if elbo < self.target - WITHIN:
            self._within_since = None
        elif self._within_since is None:
            self._within_since = now
        self._due = max(now * GROWTH, now + LEAST)
        self._started += processor_seconds() - paused

    def reached(self, best: float) -> float | None:
        """Seconds until it is within the distance of the best and stays there; None: it is not."""
        first = None
        for second, elbo in zip(self.seconds, self.elbos, strict=True):
            if elbo < best - WITHIN:
                first = None
            elif first is None:
                first = second
        return first
