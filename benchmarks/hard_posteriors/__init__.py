"""Random posteriors whose answer is known: ordinary ones, and those that a fit should not be certified on."""

from collections.abc import Callable

import numpy as np

from hard_posteriors.curved import CURVED
from hard_posteriors.ordinary import ORDINARY
from hard_posteriors.problem import Problem
from hard_posteriors.several import SEVERAL

__all__ = ["KINDS", "is_easy", "problem"]

Maker = Callable[[np.random.Generator], Problem]

KINDS: tuple[tuple[str, bool, int, Maker], ...] = (
    *((name, True, share, make) for name, share, make in ORDINARY),
    *((name, False, share, make) for name, share, make in (*SEVERAL, *CURVED)),
)
"""Name, is it of the easy half, how many of 200, and how one is made."""


def kind(number: int) -> tuple[str, bool, int, Maker]:
    """The kind of problem ``number``: kinds follow each other in a cycle of 200, each as often as the table says."""
    of_each = [kind for kind in KINDS for _ in range(kind[2])]
    order = np.random.default_rng(0).permutation(len(of_each))
    return of_each[order[number % len(of_each)]]


def is_easy(number: int) -> bool:
    """Is problem ``number`` of the easy half?"""
    return kind(number)[1]


def problem(number: int, seed: int) -> Problem:
    """Problem ``number``, made anew from its number and the seed."""
    name, easy, _, make = kind(number)
    return make(np.random.default_rng([seed, number])).named(name, easy, number)
