"""The bounds themselves, without noise: by the table of all values of discrete latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.pair.table import Table

MANY_TUPLES = 1 << 22
"""Tuples of draws over which a bound is summed at most."""


def exact_bound(table: Table, draws: int) -> Tensor:
    r"""The multi-sample bound of each datum, summed over all tuples of K draws.

    .. math:: L_K(x) = \sum_{c_1, \dots, c_K} \prod_k q(c_k \mid x) \log \frac1K \sum_k \frac{p(x, c_k)}{q(c_k \mid x)}

    Args:
        table: C values of B data, with gradients.
        draws: K; 1 gives the ELBO.

    Returns:
        (B,) nats.

    Raises:
        ValueError: C^K B tuples are too many, or the latents stand in plates of their own and K > 1.
    """
    if draws == 1:
        return table.elbo
    values, size = table.log_p.shape[:2]
    if table.log_p.dim() > 2 or values**draws * size > MANY_TUPLES:
        raise ValueError(
            f"exact_bound: {values}^{draws} tuples of draws for each of {size} data are more than {MANY_TUPLES}, or "
            "the latents stand in plates"
        )
    log_w, log_q = table.log_p - table.log_q, table.log_q
    total_w, total_q = log_w, log_q
    for _ in range(draws - 1):
        total_w = torch.logaddexp(total_w.unsqueeze(1), log_w.unsqueeze(0)).flatten(0, 1)
        total_q = (total_q.unsqueeze(1) + log_q.unsqueeze(0)).flatten(0, 1)
    return (total_q.exp() * (total_w - math.log(draws))).sum(0)
