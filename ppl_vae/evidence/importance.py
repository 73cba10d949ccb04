"""Importance-weighted evidence: the guide proposes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan
from ppl_vae.evidence.estimator import FromWeights
from ppl_vae.evidence.evidence import Evidence

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Draws, Pair

__all__ = ["ImportanceWeighted"]


@dataclass(frozen=True, repr=False)
class ImportanceWeighted(FromWeights):
    r"""The guide proposes, and each draw counts for what the model makes of it.

    .. math::
        \hat L_K = \log \frac{1}{K} \sum_k \frac{p_\theta(x, z_k)}{q_\phi(z_k | x)}, \quad
        z_k \sim q_\phi(z | x)

    For an exact flow and its encoder every weight is p(x) itself: one draw is made, and the value is exact. Else it is
    a lower bound in expectation that rises with K to log p(x); with K = 1 it is the ELBO. Its gap is about
    half its squared standard error, as long as k-hat is below 0.7. The guide must be able to draw all that the
    posterior may hold.

    Args:
        num_samples: K, draws a datum.

    Raises:
        ValueError: in use, for a guide that is a point mass (``AutoDelta``): log p(x, z) at one point is no evidence.

    Yuri Burda, Roger Grosse, Ruslan Salakhutdinov: "Importance Weighted Autoencoders", 2016.

    >>> ImportanceWeighted(5000)
    ImportanceWeighted(5000)
    """

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """Estimate log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`."""
        pair.initialize(rows)
        if not pair.is_exact:
            return super().estimate(pair, rows, seed, max_elements=max_elements)
        plan = Plan.of(pair, rows, 1, max_elements)
        parts = [self.draw(pair, chunk, 1, seed).log_weight[0] for _, chunk in plan.row_chunks(rows)]
        value = torch.cat(parts) if parts[0].dim() else parts[0]
        zero = torch.zeros_like(value)
        return Evidence(value, zero, torch.full_like(value, math.inf), zero, "exact", repr(self))

    def draw(self, pair: Pair, rows: Rows, count: int, seed: int) -> Draws:
        """Draws of the guide."""
        pair.sites.require_density(repr(self))
        return pair.draw(rows, count, seed=seed)
