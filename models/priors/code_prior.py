"""The contract of a prior over codes."""

from __future__ import annotations

from typing import Self

from ppl_vae.models.priors.base import Prior


class CodePrior(Prior):
    """p(c): a module that, called, returns a Pyro distribution with no batch and event shape (M,), long
    values.

    The sizes may be left to the model: ``Uniform()`` stands for itself in whatever sizes a ``DiscreteVAE`` asks
    for (:meth:`sized`), and cannot be called before.

    Implementing a new one:

    - subclass and write ``__init__(num_latents=None, num_classes=None)`` and ``forward()``, as ``Learned`` does;
    - override :meth:`sized` if there are more arguments, or require the sizes;
    - add it to the table in ``tests/models/test_code_priors.py``.

    Args:
        num_latents: M, or None.
        num_classes: K, or None with M.

    Raises:
        ValueError: M < 1, K < 2, or one of the two alone.
    """

    def __init__(self, num_latents: int | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        neither = num_latents is None and num_classes is None
        if not neither and not ((num_latents or 0) >= 1 and (num_classes or 0) >= 2):
            raise ValueError(
                f"{type(self).__name__}: num_latents >= 1 and num_classes >= 2, or neither, are required, got "
                f"num_latents={num_latents}, num_classes={num_classes}"
            )
        self.num_latents, self.num_classes = num_latents, num_classes

    def sized(self, num_latents: int, num_classes: int) -> Self:
        """Give this prior if it has sizes, or else a new one with these."""
        return type(self)(num_latents, num_classes) if self.num_latents is None else self

    def extra_repr(self) -> str:
        """Say the sizes."""
        return "" if self.num_latents is None else f"{self.num_latents}, {self.num_classes}"
