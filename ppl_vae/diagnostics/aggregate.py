r"""The aggregate posterior, which is the mean of the posteriors of N data: its density at any draw.

.. math:: q(z) = \frac{1}{N} \sum_n q(z \mid x_n)

Each draw is scored under the posterior of every datum, so work grows with N times the number of draws. Memory does not:
scores are made in blocks of draws by data, and a block leaves one number a draw behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.evidence.chunks import numbers_per_datum, slices
from ppl_vae.pair.blocks import takes_single_rows

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["Scores", "block_sizes", "log_aggregate", "log_mean_over_rows", "require_aggregate"]

Scores = Callable[[dict[str, Tensor]], Tensor]


def require_aggregate(pair: Pair, who: str) -> None:
    """Raise ValueError where the guide's density cannot be asked at the draw of another datum.

    Raises:
        GlobalLatentError: a latent is shared by all data.
        ValueError: there is no latent; the guide gives points (``AutoDelta``, the encoder of a flow); it draws what is
            no latent of the model, so that log q(z | x) is no function of z (most autoguides); a latent is masked; a
            plate draws a subsample.
    """
    sites = pair.sites
    if not pair.latents:
        raise ValueError(f"{who}: a latent of each datum that the guide draws is required, and the pair has none")
    sites.require_local(who)
    sites.require_density(who)
    sites.require_whole_plates(who)
    if pair.is_exact or pair.counts_volume:
        raise ValueError(
            f"{who}: a guide with a spread is required, but the z of a flow is a point that follows from x"
        )
    if strange := sorted(set(sites.guide) - set(pair.latents)):
        raise ValueError(
            f"{who}: log q(z | x) at the draws of other data is required, but the guide draws "
            f"{', '.join(map(repr, strange))}, from which its latents follow (as autoguides do), so it has no such "
            "density; use a guide that samples the latents themselves, such as guides.AmortizedNormal or MeanField"
        )
    if masked := [name for name, site in {**pair.latents, **sites.guide}.items() if site.is_masked]:
        raise ValueError(
            f"{who}: latents that every datum has are required, but {', '.join(map(repr, masked))} bears a mask"
        )


def block_sizes(pair: Pair, rows: Source, max_elements: int) -> tuple[int, int]:
    """How many rows and how many draws one block of scores holds: a square, or all rows where they stay whole."""
    cells = max(1, max_elements // numbers_per_datum(pair, rows))
    some = min(len(rows), max(1, math.isqrt(cells)))
    if some < len(rows) and not takes_single_rows(pair, rows):
        some = len(rows)
    return some, max(1, cells // some)


def log_aggregate(pair: Pair, rows: Source, values: Mapping[str, Tensor], max_elements: int) -> Tensor:
    """Log q(z) of draws, (T,) nats, float64.

    Args:
        pair: a pair that :func:`require_aggregate` lets pass.
        rows: the N data whose posteriors are averaged.
        values: the draws, (T, ...) by site.
        max_elements: how many numbers one run of the pair may handle.
    """

    def prepare(some: Rows) -> Scores:
        def scores(draws: dict[str, Tensor]) -> Tensor:
            every = {name: v.unsqueeze(1).expand(len(v), len(some), *v.shape[1:]) for name, v in draws.items()}
            return pair.log_guide(some, every).total

        return scores

    return log_mean_over_rows(prepare, rows, values, block_sizes(pair, rows, max_elements))


def log_mean_over_rows(
    prepare: Callable[[Rows], Scores], rows: Source, values: Mapping[str, Tensor], sizes: tuple[int, int]
) -> Tensor:
    """Log of the mean over N data of exp scores: (T, ...) float64.

    Args:
        prepare: from some data to the scores, (T', n, ...) nats, of some draws under the posterior of each.
        rows: the N data.
        values: T draws, (T, ...) by site.
        sizes: of a block, data and draws.
    """
    count = len(next(iter(values.values())))
    found: list[Tensor] = []
    for place in slices(len(rows), sizes[0]):
        scores = prepare(rows.take(place))
        sums = [
            scores({name: value[draws] for name, value in values.items()}).logsumexp(1)
            for draws in slices(count, sizes[1])
        ]
        found = [torch.logaddexp(*both) for both in zip(found, sums, strict=True)] if found else sums
    return torch.cat(found) - math.log(len(rows))
