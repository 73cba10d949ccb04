"""Random posteriors whose answer is known: ordinary ones, and those that a fit should not be certified on."""

from collections.abc import Callable

import numpy as np

from hard_posteriors.curved import CURVED
from hard_posteriors.ordinary import ORDINARY
from hard_posteriors.problem import Problem
from hard_posteriors.several import SEVERAL

__all__ = ["KINDS", "problem"]

Maker = Callable[[np.random.Generator], Problem]

KINDS: tuple[tuple[str, bool, int, Maker], ...] = (
    *((name, True, share, make) for name, share, make in ORDINARY),
    *((name, False, share, make) for name, share, make in (*SEVERAL, *CURVED)),
)
"""Name, is it of the easy half, how many of 200, and how one is made."""


def problem(number: int, seed: int) -> Problem:
    """Problem ``number``: kinds follow each other in a cycle of 200, each as often as the table says."""
    names = [kind for kind in KINDS for _ in range(kind[2])]
    order = np.random.default_rng(0).permutation(len(names))
    name, easy, _, make = names[order[number % len(names)]]
    return make(np.random.default_rng([seed, number])).named(name, easy, number)
