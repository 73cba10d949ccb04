"""A pair, or what holds one."""

from __future__ import annotations

from typing import Protocol

from ppl_vae.pair.pair import Pair


class Fitted(Protocol):
    """What holds a pair: a fit."""

    @property
    def pair(self) -> Pair:
        """The pair."""
        ...


def pair_of(fitted: Pair | Fitted) -> Pair:
    """The pair itself, or that of a fit: what is evaluated may be given as either.

    Raises:
        TypeError: it is neither.
    """
    pair = fitted if isinstance(fitted, Pair) else getattr(fitted, "pair", None)
    if not isinstance(pair, Pair):
        raise TypeError(f"a Pair or a Fit is required, got {fitted!r}; bind a model and a guide by Pair(model, guide)")
    return pair
