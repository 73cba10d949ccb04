"""Weighted draws of the latents that all data share, with log p(x_n | w) of the rows of the fit at each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import Plan, resolution_of, slices
from ppl_vae.evidence.conditional import (
    Conditional,
    Integration,
    density_outside,
    follow_shared_draws,
    given_shared,
    local_latents,
    log_q_at,
)
from ppl_vae.evidence.importance import parts_of
from ppl_vae.evidence.mixture import weigh
from ppl_vae.evidence.weighing import weighted_draws
from ppl_vae.evidence.weighted_draws import WeightedDraws
from ppl_vae.pair import pair_of
from ppl_vae.pair.mapped import DrawWider
from ppl_vae.pair.predictive import shared_latents, unseen_sites
from ppl_vae.pair.scoring import values_of

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["SharedDraws", "require_observed", "require_shared", "rows_of_fit", "shared_draws"]


@dataclass(frozen=True)
class SharedDraws:
    """S weighted draws of the shared latents from their posterior given the rows of the fit.

    Attributes:
        draws: values and weights; its ``khat`` judges them.
        given: log p(x_n | w) of these rows at each.
        at_once: are the weights of all latents, local ones included, since the guide draws them together? Else the
            estimates of ``given`` are in the weights.
    """

    draws: WeightedDraws
    given: Conditional
    at_once: bool


def shared_draws(
    pair: Pair,
    rows: Rows,
    num_samples: int,
    how: Integration,
    *,
    seed: int,
    who: str,
) -> SharedDraws:
    r"""Draw the shared latents from the guide, and weigh the draws with the local ones integrated out:

    .. math:: \log w = \log p(w) + \sum_n \log p(x_n | w) - \log q(w)

    A weight of all latents at once scatters by the sum of what each datum's own scatter, and for many data one draw
    would carry all. Only where the guide draws all latents at once (a joint autoguide) it has to be taken.

    Raises:
        ValueError: a shared latent is summed out; see ``weighted_draws`` too.
    """
    summed = [name for name in shared_latents(pair) if name in pair.sites.summed]
    if summed:
        raise ValueError(
            f"{who}: weighted draws of shared latents that the guide draws are required, but the model sums out "
            f"{', '.join(map(repr, summed))}; draw it in the guide, or take the guide's plain draws (weighted=False)"
        )
    if not local_latents(pair) or follow_shared_draws(pair):
        drawn = weighted_draws(pair, rows, num_samples, widths=how.widths, seed=seed, max_elements=how.max_elements)
        values = {name: drawn.values[name] for name in shared_latents(pair)}
        given = given_shared(pair, rows, values, how, seed=fold(seed, "given"))
        return SharedDraws(_of_shared(drawn, values), given, bool(local_latents(pair)))
    pair.sites.require_density(who)
    pair.sites.require_whole_plates(who)
    pair.draw(rows, 1)  # says which latents the guide misses
    counts = parts_of(pair, num_samples, how.widths)
    values, outside, log_q = _drawn(pair, rows, counts, how, fold(seed, "shared"))
    given = given_shared(pair, rows, values, how, seed=fold(seed, "given"))
    log_w, _ = weigh(outside + given.log_p.sum(1), log_q, counts)
    return SharedDraws(WeightedDraws(values, log_w, resolution=resolution_of(pair)), given, False)


def _of_shared(drawn: WeightedDraws, values: dict[str, Tensor]) -> WeightedDraws:
    return WeightedDraws(
        values, drawn.log_weight, others=drawn.others, resolution=drawn.resolution, coincide=drawn.coincide
    )


def _drawn(
    pair: Pair, rows: Rows, counts: Sequence[int], how: Integration, seed: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Values by site; log p of all outside the data plate, (S,); log q of the shared latents at each width, (W, S)."""
    batch, names = rows.batch(), shared_latents(pair)
    block, widths = Plan.of(pair, rows, sum(counts), how.max_elements).draws, how.widths
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    outside, log_q = [], []
    for which, count in enumerate(counts):
        for place in slices(count, block):
            size = place.stop - place.start
            wider = DrawWider(pair.sites.widenable, widths[which]) if which else nullcontext()
            with pair.evaluating(fold(seed, which, place.start)):
                with wider:
                    runs = pair.runs(batch, size)
                for run in runs:
                    found = values_of(pair, run)
                    for name in names:
                        values[name].append(found[name])
                    outside.append(density_outside(run))
                    at = [log_q_at(pair, run, width, local=False) for width in widths[: len(counts)]]
                    log_q.append(torch.stack(at))
    return {name: torch.cat(parts) for name, parts in values.items()}, torch.cat(outside), torch.cat(log_q, 1)


# -- what is asked for -----------------------------------------------------------------------------------------------


def rows_of_fit(fitted: Pair | Fitted, given: Any, *, who: str, argument: str = "fitted_to") -> Source:
    """The rows that a pair was fitted to: those given (by the argument of that name), or those that a Fit has at hand.

    Raises:
        ValueError: they are neither.
    """
    pair = pair_of(fitted)
    if given is not None:
        return pair.rows(given)
    of_fit = getattr(fitted, "rows_of_fit", None)
    known = of_fit() if of_fit is not None else None
    if known is None and pair.template is not None and len(pair.template) == pair.num_rows:
        known = pair.template
    if known is None:
        raise ValueError(
            f"{who}: the rows that the pair was fitted to are required, and they are not at hand (the fit was loaded "
            f"or released); give them as {argument}="
        )
    return pair.rows(known)


def require_shared(pair: Pair, who: str, instead: str) -> None:
    """Raise ValueError for a pair without latents that all data share."""
    if not shared_latents(pair):
        raise ValueError(
            f"{who}: latents that all data share are required (outside the data plate), whose posterior the rows of "
            f"the fit make, but all of {', '.join(map(repr, pair.latents)) or 'none'} are a datum's own, and the "
            f"parameters are points: {instead}"
        )


def require_observed(pair: Pair, rows: Source, who: str) -> None:
    """Raise ValueError for rows without what the model observes."""
    if unseen := unseen_sites(pair, rows):
        raise ValueError(
            f"{who}: rows with all that the model observes are required, got rows without "
            f"{', '.join(map(repr, unseen))}: their density is asked for; posterior_predictive draws them"
        )
