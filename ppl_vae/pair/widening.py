"""Draws of a guide whose continuous latents are widened, scored under the guide at several widths.

A run of the guide gives, at each site, its distribution given the values before it. So one run that draws from wider
twins knows the joint density of these values under every width: dependent latents are widened conditional by
conditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.distributions import widened
from ppl_vae.pair import scoring
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.draws import Draws
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.mapped import draws_of_many
from ppl_vae.pair.scores import SiteScore

if TYPE_CHECKING:
    from ppl_vae.pair.execution import Execution
    from ppl_vae.pair.pair import Pair

__all__ = ["WideDraws", "draw_wider", "guide_scores"]


@dataclass(frozen=True)
class WideDraws:
    """Draws of the guide at one width, scored at several.

    Attributes:
        draws: values, log p and the log q of the guide as it is.
        log_q: (W, S, N) log q of the guide at each width, or (W, S) with global latents, nats.
    """

    draws: Draws
    log_q: Tensor


def draw_wider(
    pair: Pair, data: Any, num_samples: int, width: float, widths: Sequence[float], *, seed: int = 0
) -> WideDraws:
    """Draw from the guide with its continuous latents ``width`` times as wide; see :meth:`Pair.draw`.

    Args:
        pair: the pair.
        data: N rows.
        num_samples: S; all of them are held in memory.
        width: what the spread of every latent is multiplied by that has a wider twin; 1 is the guide.
        widths: what the draws are scored at.
        seed: the draws are a function of it and of the width; those of width 1 are the draws of :meth:`Pair.draw`.
    """
    batch = pair.as_batch(data)
    with pair.evaluating(fold(seed, "draw")):
        draws, log_q = draws_of_many(
            pair, batch, num_samples, lambda run, drawn: _at_widths(pair, run, drawn, widths), width=width
        )
    return WideDraws(draws, log_q)


def _at_widths(pair: Pair, run: Execution, drawn: Draws, widths: Sequence[float]) -> Tensor:
    """Log q of one run's draws, (W, S, N) or (W, S)."""
    shape = drawn.log_weight.shape
    return torch.stack([_log_q(pair, run, drawn, width).expand(shape) for width in widths])


def _log_q(pair: Pair, run: Execution, drawn: Draws, width: float) -> Tensor:
    if width == 1.0:
        return drawn.log_q.total
    return scoring.log_prob(pair, guide_scores(pair, run, width)).total


def guide_scores(pair: Pair, run: Execution, width: float) -> dict[str, SiteScore]:
    """The densities of the guide's draws in a run, by site, were its latents ``width`` times as wide."""
    particles, wide = run.num_particles is not None, pair.sites.widenable if width != 1.0 else ()
    return {
        name: SiteScore(
            name, {**site, "fn": _wider(site["fn"], width)} if name in wide else site, run.layout, particles
        )
        for name, site in sample_sites(run.guide_trace)
        if has_density(site)
    }


def _wider(fn: Any, width: float) -> Any:
    twin = widened(fn, width)
    return fn if twin is None else twin
