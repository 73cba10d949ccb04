"""Exact evidence: the sum over all values of discrete latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, numbers_per_datum, slices
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import join
from ppl_vae.pair.table import Table, num_codes, tabulate

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
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

    def estimate(self, pair: Pair, rows: Rows, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """The exact log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`."""
        pair.initialize(rows)
        count = num_codes(pair) or 1  # tabulate says why there is no table
        some = max(1, max_elements // (count * numbers_per_datum(pair, rows)))
        parts = []
        for place in slices(len(rows), some):
            with pair.evaluating(fold(seed, repr(self), place.start)):
                parts.append(exact(tabulate(pair, rows.take(place).batch())))
        return join(parts)


def exact(table: Table) -> Evidence:
    """The exact evidence that a table of all values holds."""
    value = table.log_evidence.double().cpu()
    zero = torch.zeros_like(value)
    return Evidence(value, zero, torch.full_like(value, math.inf), zero, "exact", repr(Enumeration()))
