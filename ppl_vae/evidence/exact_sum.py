"""Exact evidence: the sum over all values of discrete latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppl_vae._random import fold
from ppl_vae.distributions import MAX_CODES
from ppl_vae.evidence.chunks import MAX_ELEMENTS, numbers_per_datum, slices
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import join
from ppl_vae.pair.table import Table, num_codes, tabulate

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["Enumeration"]


@dataclass(frozen=True)
class Enumeration:
    r"""Sum over all values of the discrete latents; the guide is not asked.

    .. math:: \log p_\theta(x) = \log \sum_c p_\theta(x, c)

    Exact up to rounding: standard error 0, k-hat 0, and an infinite effective sample size. Memory and time are those of
    C runs of the model, where C is the number of joint values.

    Raises:
        ValueError: in use, for a pair with a latent that is continuous, or shared by all data, or with more joint
            values than can be summed over.

    >>> Enumeration()
    Enumeration()
    """

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """The exact log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`."""
        pair.initialize(rows)
        count = _count(pair)
        some = max(1, max_elements // (count * numbers_per_datum(pair, rows)))
        parts = []
        for place in slices(len(rows), some):
            with pair.evaluating(fold(seed, repr(self), place.start)):
                parts.append(exact(tabulate(pair, rows.take(place).batch())))
        return join(parts)


def _count(pair: Pair) -> int:
    """How many joint values there are; 1 where tabulate will say why there is no table."""
    count = num_codes(pair) or 1
    if count > MAX_CODES:
        raise ValueError(
            f"Enumeration: {count:.3g} joint values of {', '.join(map(repr, pair.latents))} are too many for a sum (at "
            f"most {MAX_CODES}); use ImportanceWeighted(1000)"
        )
    return count


def exact(table: Table) -> Evidence:
    """The exact evidence that a table of all values holds."""
    value = table.log_evidence.double().cpu()
    zero = torch.zeros_like(value)
    return Evidence(value, zero, torch.full_like(value, math.inf), zero, "exact", repr(Enumeration()))
