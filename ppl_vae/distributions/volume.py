"""What a deterministic pair is made of: a latent that is a point, and an observed site that counts its volume."""

from __future__ import annotations

from torch import Tensor


class PointMass:
    """A distribution whose draw is where its data put it; its log density is 0 there, and no volume is in it.

    As a guide's site it is half of a pair: the volume is counted at an observed site of the model
    (:class:`CountsVolume`). Without that, log p - log q is no weight, as with a ``Delta``.
    """

    def cut(self, value: Tensor) -> Tensor:
        """The value without its gradient, and with what it carries along."""
        return value.detach()

    def alone(self, value: Tensor, drawn: Tensor, particle: int) -> Tensor:
        """One particle of a drawn value, with what it has to carry along.

        Args:
            value: (S, *batch, *event), as drawn.
            drawn: (*batch, *event), that particle by itself.
            particle: which it is.
        """
        return drawn

    def first_nonfinite(self) -> str | None:
        """The name of the first part of what computes the point that puts out a NaN or an infinity, or None."""
        return None


class CountsVolume:
    """An observed site whose log density counts the volume of a latent that a guide gives as a point.

    Attributes:
        latent: the very value of that latent.
        exact: is the sum with the latent's prior log p(x) itself, and not a lower bound on it?
    """

    latent: Tensor
    exact: bool
