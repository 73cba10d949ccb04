"""The contract of a likelihood: how numbers that a decoder returns become p(x | z)."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ppl_vae import _private as private


class Likelihood(nn.Module):
    """p(x | z), given what the decoder returns for z.

    ``log p(x | z) = sum over the entries of x of log p(entry | decoder(z))``

    The shape contract: with ``num_params`` = 1 the decoder returns one number per entry of x, so its output
    per datum has the shape of x; with more, they stand on one more axis at the right, (*x, num_params).

    Learned numbers of the likelihood itself (a noise scale) are ordinary ``nn.Parameter``, hence part of θ.

    Implementing a new one:

    - subclass, set ``num_params`` (on the class or in ``__init__``) and write :meth:`entries`;
    - if not every number is a possible entry of x, write :meth:`possible`, and set ``advice``;
    - if 0 is no possible entry of x, set ``filler`` to a value that is (it stands in for entries masked out);
    - add it to ``REGISTRY`` in ``ppl_vae/models/likelihoods/__init__.py`` and to the table in
      ``tests/models/test_likelihoods.py``.

    A likelihood under which the entries are not independent given z overrides :meth:`distribution`.
    """

    num_params: int = 1
    filler: float = 0.0
    advice: str = "choose a likelihood of such numbers"

    def entries(self, output: Tensor) -> TorchDistribution:
        """The distribution of every entry on its own.

        Args:
            output: what the decoder returned, (..., *event) or (..., *event, num_params).

        Returns:
            A distribution with batch shape (..., *event) and no event dimension.
        """
        raise NotImplementedError(f"{type(self).__name__}: a likelihood must define entries(output)")

    def possible(self, x: Tensor) -> Tensor | None:
        """Which entries of x this likelihood knows of: (N, *event) boolean; None for every number."""
        return None

    def require(self, x: Tensor, *, who: str) -> None:
        """Raise ValueError, under torch's argument validation, for data that this likelihood gives no probability.

        Args:
            x: (N, *event) data.
            who: whose error it is.
        """
        possible = self.possible(x) if private.validates() else None
        if possible is None or bool(possible.all()):
            return
        row, *column = (int(i) for i in (~possible).nonzero()[0])
        place = f"row {row} of the {len(x)} in this call, column {', '.join(map(str, column))}"
        count = int((~possible).sum())
        raise ValueError(
            f"{who}: x must have entries that {self!r} knows of, got {float(x[(row, *column)]):g} at {place} "
            f"({count} of {possible.numel()} entries are such); {self.advice}"
        )

    def event_shape(self, output_shape: torch.Size) -> torch.Size:
        """The shape of one x, read off the decoder's output for one z.

        Raises:
            ValueError: ``num_params`` is above 1 and is not the last size.
        """
        if self.num_params == 1:
            return output_shape
        if len(output_shape) < 1 or output_shape[-1] != self.num_params:
            raise ValueError(
                f"{type(self).__name__}: the decoder must return (..., *event, {self.num_params}), "
                f"{self.num_params} numbers per entry, got {tuple(output_shape)} for one datum"
            )
        return output_shape[:-1]

    def distribution(self, output: Tensor, event_shape: torch.Size, *, mask: Tensor | None = None) -> TorchDistribution:
        """The distribution of x.

        Args:
            output: what the decoder returned, (*batch, *event) or (*batch, *event, num_params).
            event_shape: the shape of one x.
            mask: (*batch, *event) boolean, True where an entry is observed; the others add 0 to log p(x |
                z).

        Returns:
            A distribution with batch shape ``batch`` and event shape ``event_shape``; its ``mean`` is E[x |
            z].
        """
        entries = self.entries(output)
        if mask is not None:
            entries = entries.mask(mask)
        return entries.to_event(len(event_shape))

    def extra_repr(self) -> str:
        """Say how many numbers an entry takes, where it is not one."""
        return "" if self.num_params == 1 else f"num_params={self.num_params}"
