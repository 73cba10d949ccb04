"""What a deterministic fit found, before it is judged."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.inference.deterministic.beginning import Beginning
from ppl_vae.inference.deterministic.fresh import Fresh
from ppl_vae.inference.deterministic.minimize import Minimum

__all__ = ["Solution"]


@dataclass(frozen=True)
class Solution:
    """Where a fit began and where it ended.

    Attributes:
        beginning: where it began, and what the starts said.
        minimum: of the last round; None for a guide that was trained on new draws at every step.
        num_draws: S of the last round.
        elbo: on these draws, nats; on fresh ones where none were fixed.
        fresh: the ELBO on draws that were not fitted to.
        evaluations: of the ELBO and its gradient.
    """

    beginning: Beginning
    minimum: Minimum | None
    num_draws: int
    elbo: float
    fresh: Fresh
    evaluations: int

    @property
    def overfit(self) -> float:
        """By how much the draws that were fitted to flatter, with two standard errors, nats."""
        return self.elbo - self.fresh.value + 2 * self.fresh.error
