"""A number that changes over training: a function of the step, with no state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Schedule = float | Callable[[int], float]


def at(schedule: Schedule, step: int) -> float:
    """The value of a number or schedule at a step (counted from 0)."""
    return float(schedule(step) if callable(schedule) else schedule)


@dataclass(frozen=True)
class LinearWarmup:
    """From ``start`` to ``end`` in a straight line over ``steps`` steps, then constant.

    Source: Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio, "Generating Sentences from a Continuous Space", 2016.

    >>> [LinearWarmup(4)(step) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"LinearWarmup: steps must be at least 1, got {self.steps}")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cyclical:
    """Warm-ups one after the other: over each ``period`` the first ``ramp`` part rises from ``start`` to ``end``.

    Source: Fu, Li, Liu, Gao, Celikyilmaz, Carin, "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL
    Vanishing", 2019.

    >>> [Cyclical(4)(step) for step in range(6)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """

    period: int
    ramp: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.period < 1 or not 0 < self.ramp <= 1:
            raise ValueError(f"Cyclical: period >= 1 and 0 < ramp <= 1 are required, got {self.period}, {self.ramp}")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        place = (step % self.period) / (self.period * self.ramp)
        return self.start + (self.end - self.start) * min(place, 1.0)
