"""Which side moves when: both at once, or E-steps and M-steps in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# Groups of parameters by the step that moves them. What model and guide share moves in the M-step; the objective's own
# baselines (ψ) serve the estimate of φ's gradient and move with it.
E_STEP = frozenset({"phi", "psi"})
M_STEP = frozenset({"theta", "shared"})


class Schedule(Protocol):
    """Says which parameter groups step t moves."""

    def moves(self, step: int) -> frozenset[str]:
        """The groups (``theta``, ``phi``, ``shared``, ``psi``) that move in this step, counted from 0."""


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
