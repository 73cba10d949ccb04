"""Which side moves when: both at once, or E-steps and M-steps in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ppl_vae.training.subset import Subset

# Groups of parameters by the step that moves them. What model and guide share moves in the M-step; the objective's own
# baselines (ψ) serve the estimate of φ's gradient and move with it.
E_STEP = frozenset({"phi", "psi"})
M_STEP = frozenset({"theta", "shared"})


class Schedule(Protocol):
    """Says which parameters step t moves."""

    def moves(self, step: int) -> Subset | frozenset[str]:
        """What moves in this step, counted from 0: groups (``theta``, ``phi``, ``shared``, ``psi``), or a subset."""


@dataclass(frozen=True)
class Joint:
    """Both sides in every step: stochastic variational inference.

    >>> sorted(Joint().moves(0))
    ['phi', 'psi', 'shared', 'theta']
    """

    def moves(self, step: int) -> frozenset[str]:
        """All groups."""
        return E_STEP | M_STEP


@dataclass(frozen=True)
class Alternating:
    """``e_steps`` steps of φ with θ frozen, then ``m_steps`` of θ with φ frozen, and again.

    Source: Neal, Hinton, "A view of the EM algorithm that justifies incremental, sparse, and other variants", 1998.

    >>> ["E" if "phi" in Alternating(e_steps=2, m_steps=1).moves(t) else "M" for t in range(6)]
    ['E', 'E', 'M', 'E', 'E', 'M']
    """

    e_steps: int = 1
    m_steps: int = 1

    def __post_init__(self) -> None:
        if self.e_steps < 0 or self.m_steps < 0 or not self.e_steps + self.m_steps:
            raise ValueError(
                f"Alternating: e_steps and m_steps must not be negative, nor both 0, got {self.e_steps}, {self.m_steps}"
            )

    def moves(self, step: int) -> frozenset[str]:
        """The groups of the E-step or of the M-step."""
        return E_STEP if step % (self.e_steps + self.m_steps) < self.e_steps else M_STEP


class Only:
    """Only the parameters whose names match a pattern move, when ``schedule`` moves them.

    Args:
        patterns: of names as in ``fit.params``: ``"guide.*"``, ``"model.decoder.0.*"``.
        schedule: says when; default :class:`Joint`.

    Raises:
        ValueError: at the first step, for a pattern that matches no parameter; the names are listed.

    >>> Only("guide.*").moves(0).holds("model.decoder.weight", "theta")
    False
    """

    def __init__(self, *patterns: str, schedule: Schedule | None = None) -> None:
        self.patterns, self.schedule = _checked(type(self).__name__, patterns), schedule or Joint()

    def moves(self, step: int) -> Subset:
        """What the schedule moves, of these names."""
        subset = Subset.of(self.schedule.moves(step))
        only = tuple(p for p in subset.only if p != "*")
        if only:
            raise ValueError(f"{self!r}: one Only is enough; give it all its patterns")
        return Subset(subset.groups, self.patterns, subset.but)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.patterns))}, schedule={self.schedule!r})"


class Frozen(Only):
    """The parameters whose names match a pattern keep every bit, with their running means; others move by ``schedule``.

    ``VariationalEM(model, guide, schedule=Frozen("model.decoder.*"))`` trains a new encoder for a decoder that is done.

    >>> Frozen("model.decoder.*").moves(0).holds("model.decoder.weight", "theta")
    False
    """

    def moves(self, step: int) -> Subset:
        """What the schedule moves, but for these names."""
        subset = Subset.of(self.schedule.moves(step))
        return Subset(subset.groups, subset.only, (*subset.but, *self.patterns))


class Stages:
    """One schedule after another: training in stages.

    Args:
        stages: pairs (schedule, steps), and at last a schedule without an end.

    Each schedule counts its steps from 0.

    >>> warm = Stages((Frozen("model.*"), 500), Joint())
    >>> warm.moves(499).holds("model.scale", "theta"), "theta" in warm.moves(500)
    (False, True)
    """

    def __init__(self, *stages: tuple[Schedule, int] | Schedule) -> None:
        *first, last = stages or (Joint(),)
        pairs: list[tuple[Schedule, int]] = []
        for stage in first:
            if not isinstance(stage, tuple) or not isinstance(stage[1], int) or stage[1] < 1:
                raise ValueError(f"Stages: pairs (schedule, steps) are required before the last stage, got {stage!r}")
            pairs.append(stage)
        if isinstance(last, tuple):
            raise ValueError(f"Stages: the last stage has no end, and is a schedule, got {last!r}")
        self.first, self.last = pairs, last

    def moves(self, step: int) -> Subset | frozenset[str]:
        """What the stage of this step moves."""
        for schedule, steps in self.first:
            if step < steps:
                return schedule.moves(step)
            step -= steps
        return self.last.moves(step)

    def __repr__(self) -> str:
        return f"Stages({', '.join(map(repr, (*self.first, self.last)))})"


def _checked(who: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{who}: at least one pattern of names is required, such as 'model.decoder.*', got {patterns}")
    return patterns
