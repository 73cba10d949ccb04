"""A distribution whose draws are a smooth map of standard normal noise, which can be handed to it."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ppl_vae.distributions.widened import HasWider

__all__ = ["OfNoise"]


class OfNoise(HasWider):
    """A distribution such as a flow of normal noise: a draw follows from noise of its own shape."""

    @property
    @abstractmethod
    def takes_noise(self) -> bool:
        """Is it so for this one? The base of a flow may be another distribution."""

    @abstractmethod
    def place(self, noise: Tensor) -> Tensor:
        """The draw that standard normal noise (..., *batch, *event) makes, with derivatives."""
