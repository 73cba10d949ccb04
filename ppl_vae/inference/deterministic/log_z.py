"""Log Z at a fit: importance sampling by the guide and by the guide with a wider spread, in the space of its noise."""

from __future__ import annotations

import torch

from ppl_vae._random import fold
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.importance import WIDTHS
from ppl_vae.evidence.mixture import Weighed, draws_by_width, weigh
from ppl_vae.inference.deterministic.fresh import normal_draws
from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["log_z"]


def log_z(noise: FixedNoise, count: int, *, seed: int) -> Evidence:
    """What ``ImportanceWeighted(count)`` estimates, with draws made as a fit makes them: all in one run.

    Args:
        noise: the pair's runs, at the parameters of the fit.
        count: draws in all.
        seed: of the draws.
    """
    counts, parts = draws_by_width(count, len(WIDTHS)), []
    for which, (each, width) in enumerate(zip(counts, WIDTHS, strict=False)):
        draws = width * normal_draws(noise, each, fold(seed, which))
        with noise.scope(), torch.no_grad():
            for block in draws.to(noise.pair.device, noise.pair.dtype).split(noise.block):
                placed = noise.at_noise(block, WIDTHS)
                parts.append(weigh(placed.log_p.cpu().double(), placed.log_qs.T.cpu().double(), counts))
    log_w, log_h = (torch.cat(column) for column in zip(*parts, strict=True))
    return Weighed(log_w, log_h, counts).unbiased(f"ImportanceWeighted({count})")
