"""Importance-weighted evidence: the guide proposes, and the guide with a wider spread beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, resolution_of, slices
from ppl_vae.evidence.coincidence import Coincidence
from ppl_vae.evidence.estimator import FromWeights
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.mixture import Weighed, draws_by_width, weigh
from ppl_vae.pair.widening import WideDraws, draw_wider

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Draws, Pair

__all__ = ["WIDTHS", "ImportanceWeighted"]

WIDTHS = (1.0, 1.5)
"""The guide, and beside it the guide with half as much spread again."""


@dataclass(frozen=True, repr=False)
class ImportanceWeighted(FromWeights):
    r"""The guide proposes, and each draw counts for what the model makes of it.

    .. math::
        \hat L_K = \log \frac{1}{K} \sum_k \frac{p_\theta(x, z_k)}{q(z_k | x)}, \quad
        q = \tfrac12 q_\phi(z | x) + \tfrac12 q_\phi^{1.5}(z | x)

    Half of the draws come from the guide, half from the guide whose every continuous latent has 1.5 times its spread,
    and all are weighed by the density of the mixture: a guide fitted by the reverse KL is too narrow, and its own draws
    alone miss the tails of the posterior and do not show it (the value too low, the error bar too short, and k-hat
    small, all at once). What the mixture scatters where the guide is good is taken off again (``evidence.mixture``). It
    helps where the guide is too narrow in every direction; a posterior whose strong correlations the guide does not
    have stays underrated. What has no wider twin (codes, points, other distributions than those of
    ``distributions.widened``) is drawn from the guide in both halves; a guide without any such latent, and fewer draws
    than two for each width, are plain.

    For an exact flow and its encoder every weight is p(x) itself: one draw is made, and the value is exact. A guide
    that is the posterior has error 0 too. Else it is a lower bound in expectation that rises with K to log p(x); with
    K = 1 it is the ELBO. Its gap is about half its squared standard error, as long as k-hat is below 0.7. The guide
    must be able to draw all that the posterior may hold.

    Args:
        num_samples: K, draws a datum, of all widths together.
        widths: what the spread of the guide's continuous latents is multiplied by, in equal parts of the draws. The
            first is 1, the guide itself; ``(1.0,)`` is the plain estimator of the guide alone.

    Raises:
        ValueError: widths that are not distinct positive numbers with 1 as the first; in use, a guide that is a point
            mass (``AutoDelta``): log p(x, z) at one point is no evidence.

    Yuri Burda, Roger Grosse, Ruslan Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    Tim Hesterberg: "Weighted average importance sampling and defensive mixture distributions", 1995.

    >>> ImportanceWeighted(5000), ImportanceWeighted(5000, widths=(1.0,))
    (ImportanceWeighted(5000), ImportanceWeighted(5000, widths=(1.0,)))
    """

    widths: Sequence[float] = field(default=WIDTHS, kw_only=True)

    def __post_init__(self) -> None:
        """Check the widths."""
        try:
            widths = tuple(float(width) for width in self.widths)
        except TypeError:
            widths = ()
        fit = all(0 < width < math.inf for width in widths) and len(set(widths)) == len(widths)
        if not fit or widths[:1] != (1.0,):
            raise ValueError(
                "ImportanceWeighted: widths must be distinct positive numbers, the first of them 1.0 (the guide), "
                f"such as (1.0, 1.5), got {self.widths!r}"
            )
        object.__setattr__(self, "widths", widths)

    def __repr__(self) -> str:
        return self.named if self.widths == WIDTHS else f"{self.named[:-1]}, widths={self.widths})"

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

    def of_chunk(self, pair: Pair, rows: Rows, block: int, key: tuple[Any, ...]) -> Evidence:
        """The evidence of some rows, in runs of at most ``block`` draws, on noise of ``key``."""
        counts = parts_of(pair, self.num_samples, self.widths)
        if len(counts) == 1:
            return super().of_chunk(pair, rows, block, key)
        pair.sites.require_density(repr(self))
        pieces, coincidence = [], Coincidence(pair)
        for drawn in proposed(pair, rows, counts, self.widths, block, key):
            coincidence.see(drawn.draws)
            pieces.append(weigh(drawn.draws.log_p.total, drawn.log_q, counts))
        log_w, log_h = (torch.cat(column) for column in zip(*pieces, strict=True))
        return Weighed(log_w, log_h, counts, coincidence.flags).unbiased(repr(self), resolution=resolution_of(pair))

    def draw(self, pair: Pair, rows: Rows, count: int, seed: int) -> Draws:
        """Draws of the guide."""
        pair.sites.require_density(repr(self))
        return pair.draw(rows, count, seed=seed)


def parts_of(pair: Pair, num_samples: int, widths: Sequence[float]) -> tuple[int, ...]:
    """How many draws each width proposes: all are of the guide where it has nothing to widen."""
    return draws_by_width(num_samples, len(widths)) if pair.sites.widenable else (num_samples,)


def proposed(
    pair: Pair, rows: Rows, counts: Sequence[int], widths: Sequence[float], block: int, key: tuple[Any, ...]
) -> Iterator[WideDraws]:
    """Draws of each width in turn, scored at all widths, in runs of at most ``block``, on noise of ``key``."""
    for which, (count, width) in enumerate(zip(counts, widths, strict=False)):
        for place in slices(count, block):
            path = (place.start,) if which == 0 else ("width", which, place.start)
            size = place.stop - place.start
            yield draw_wider(pair, rows, size, width, widths[: len(counts)], seed=fold(*key, *path))
