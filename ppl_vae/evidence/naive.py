"""Naive Monte Carlo: the prior proposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.evidence.estimator import estimate_from_weights

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.evidence.result import Evidence
    from ppl_vae.pair import Pair

__all__ = ["NaiveMonteCarlo"]


@dataclass(frozen=True)
class NaiveMonteCarlo:
    r"""The prior proposes, and the likelihoods are averaged; the guide is never asked.

    .. math:: \hat L_K = \log \frac{1}{K} \sum_k p_\theta(x | z_k), \quad z_k \sim p_\theta(z)

    Right for any guide, and of use where few latents decide little: in many dimensions hardly a draw of the
    prior explains the datum, and k-hat says so.

    Args:
        num_samples: K, draws a datum.

    >>> NaiveMonteCarlo(1000)
    NaiveMonteCarlo(1000)
    """

    num_samples: int

    def estimate(self, pair: Pair, rows: Rows, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """Estimate log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`."""
        return estimate_from_weights(
            lambda chunk, count, noise: pair.draw_prior(chunk, count, seed=noise),
            pair,
            rows,
            num_samples=self.num_samples,
            seed=seed,
            max_elements=max_elements,
            name=repr(self),
        )

    def __repr__(self) -> str:
        return f"NaiveMonteCarlo({self.num_samples})"
