"""Which parameters move in a step: those of some groups, of some names, or both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["EVERYONE", "GROUPS", "Subset"]

GROUPS = ("theta", "phi", "shared", "psi")
EVERYONE = frozenset(GROUPS)


@dataclass(frozen=True)
class Subset:
    """A named set of parameters.

    Args:
        groups: of θ ("theta"), φ ("phi"), what both sides share ("shared") and the objective's own ψ ("psi").
        only: patterns of names (``"model.decoder.*"``), of which one must match; the names are those of ``fit.params``.
        but: patterns of names of which none may match.

    >>> Subset(but=("model.decoder.*",)).holds("model.decoder.0.weight", "theta")
    False
    """

    groups: frozenset[str] = EVERYONE
    only: tuple[str, ...] = ("*",)
    but: tuple[str, ...] = ()

    @classmethod
    def of(cls, moves: Subset | Iterable[str]) -> Subset:
        """What a schedule says: a subset, or the names of groups."""
        return moves if isinstance(moves, Subset) else cls(frozenset(moves))

    def holds(self, name: str, group: str) -> bool:
        """Is the parameter one of them?"""
        if group not in self.groups:
            return False
        return _matches(name, self.only) and not _matches(name, self.but)

    def idle(self, names: Iterable[str]) -> list[str]:
        """The patterns that match none of these names."""
        every = list(names)
        return [p for p in (*self.only, *self.but) if p != "*" and not any(_matches(name, (p,)) for name in every)]

    @property
    def label(self) -> str:
        """What it is called in reports and in the state of a run."""
        groups = "+".join(sorted(self.groups))
        only = "" if self.only == ("*",) else f" of {', '.join(self.only)}"
        return groups + only + (f" but {', '.join(self.but)}" if self.but else "")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
