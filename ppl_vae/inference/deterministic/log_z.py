"""Log Z at a fit: importance sampling by the guide and by the guide with a wider spread, in the space of its noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.mixture import Weighed, draws_by_width, weigh
from ppl_vae.inference.deterministic.fresh import normal_draws
from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["log_z"]

WIDTHS = (1.0, 1.5, 3.0)


def log_z(noise: FixedNoise, count: int, *, seed: int) -> tuple[Evidence, Tensor, Tensor]:
    """What ``ImportanceWeighted(count, widths=(1.0, 1.5, 3.0))`` estimates, with draws made as a fit makes them.

    The widest draws are for what a fit cannot see: a part of the posterior around it that is much wider than it is.

    Args:
        noise: the pair's runs, at the parameters of the fit.
        count: draws in all.
        seed: of the draws.

    Returns:
        The estimate; the draws u (count, D), and their log weights (count,), nats.
    """
    counts, parts = draws_by_width(count, len(WIDTHS)), []
    for which, (each, width) in enumerate(zip(counts, WIDTHS, strict=False)):
        draws = width * normal_draws(noise, each, fold(seed, which))
        with noise.scope(), torch.no_grad():
            for block in draws.to(noise.pair.device, noise.pair.dtype).split(noise.block):
                placed = noise.at_noise(block, WIDTHS)
                weighed = weigh(placed.log_p.cpu().double(), placed.log_qs.T.cpu().double(), counts)
                parts.append((*weighed, placed.u.cpu().double()))
    log_w, log_h, u = (torch.cat(column) for column in zip(*parts, strict=True))
    # Far out a model may be no number: such a draw weighs nothing.
    log_w = torch.where(log_w.isnan() | log_w.isposinf(), -torch.inf, log_w)
    return Weighed(log_w, log_h, counts).unbiased(f"ImportanceWeighted({count})"), u, log_w
