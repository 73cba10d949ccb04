"""Draws that are all one code: their weights are constant too, and that proves nothing of the other codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_vae.pair import Draws, Pair

__all__ = ["Coincidence"]


class Coincidence:
    """Which data have a discrete latent of which every draw so far has been the same value.

    Weights that are constant over different values are those of a guide that equals the posterior. A guide that has
    all but given up the other values of a code draws one, with one weight, wherever the posterior may be.

    Args:
        pair: says which latents are discrete.
    """

    def __init__(self, pair: Pair) -> None:
        self._names = [name for name, site in pair.latents.items() if site.is_discrete]
        self._joint = pair.has_global_latents
        self._first: dict[str, Tensor] = {}
        self._same: dict[str, Tensor] = {}

    def see(self, draws: Draws) -> None:
        """Look at some more draws of the same data."""
        for name in self._names:
            values = draws.values[name]
            first = self._first.setdefault(name, values[0])
            same = (values == first).all(0)
            self._same[name] = self._same.get(name, torch.ones_like(same)) & same

    @property
    def flags(self) -> Tensor:
        """Of each datum, (N,) bool; () with latents shared by all data, and where no latent is discrete."""
        found = torch.zeros((), dtype=torch.bool)
        for same in self._same.values():
            found = found | (same.any() if self._joint else same.reshape(len(same), -1).any(1))
        return found
