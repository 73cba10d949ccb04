"""Naive Monte Carlo: the prior proposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppl_vae.evidence.estimator import FromWeights

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Draws, Pair

__all__ = ["NaiveMonteCarlo"]


@dataclass(frozen=True, repr=False)
class NaiveMonteCarlo(FromWeights):
    r"""The prior proposes, and the likelihoods are averaged; the guide is never asked.

    .. math:: \hat L_K = \log \frac{1}{K} \sum_k p_\theta(x | z_k), \quad z_k \sim p_\theta(z)

    Right for any guide, and of use where few latents decide little: in many dimensions hardly a draw of the
    prior explains the datum, and k-hat says so.

    Args:
        num_samples: K, draws a datum.

    Raises:
        ValueError: in use, for a p(x | z) that is a point mass (a flow): no draw of the prior gives the very x.

    >>> NaiveMonteCarlo(1000)
    NaiveMonteCarlo(1000)
    """

    def draw(self, pair: Pair, rows: Rows, count: int, seed: int) -> Draws:
        """Draws of the prior."""
        return pair.draw_prior(rows, count, seed=seed)
