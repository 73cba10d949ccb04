"""Weights of ``poutine.scale`` belong to an objective, and to no density: evidence is of the model without them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

__all__ = ["say_of_weights"]

_SAID = "weights"


def say_of_weights(pair: Pair, what: str) -> None:
    """Warn, once a pair, that what has just been evaluated is the model without the weights that its objective has."""
    names = pair.runner.weighted
    if not names or _SAID in pair.runner.said:
        return
    pair.runner.said.add(_SAID)
    warnings.warn(
        f"{what}: {', '.join(map(repr, names))} bears a weight (poutine.scale), so the fit was of another objective "
        "than this model's ELBO; this is of the model without weights, as are `elbo` and the column `elbo` of the "
        "history. The weighted bound is elbo(data, weighted=True), in the history `objective`",
        stacklevel=3,
    )
