"""A flow over all latents is trained on new draws at every step: it could be bent to any fixed ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.guides import AutoFlow
from ppl_vae.inference.deterministic.fresh import normal_draws
from ppl_vae.pair.detach import frozen
from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["train_flow"]

RATE, WARM = 5e-3, 0.1
"""The greatest rate of Adam, reached after this share of the steps; at the end it is 0, so that no noise is left."""
CLIP = 5.0
"""The most that the gradient's norm counts, nats: one draw far out in a tail is no reason for a leap."""


def train_flow(noise: FixedNoise, guide: AutoFlow, *, steps: int, num_draws: int, seed: int) -> None:
    r"""Raise the ELBO by Adam, with the gradient that goes through the draws alone.

    .. math:: \nabla_\phi E_\varepsilon[\log p(x, u_\phi(\varepsilon)) - \log q_{\bar\phi}(u_\phi(\varepsilon))]

    with the parameters of the density q held: unbiased, since the score has the expectation 0, and without noise where
    q is the posterior. So a few hundred steps end within some hundredths of a nat, where the whole gradient's noise
    stays tenths away.

    Args:
        noise: the runs of the pair whose guide this is; its model's parameters move too.
        guide: the flow.
        steps: of Adam, on one rise and fall of the rate.
        num_draws: of a step, half of them mirror images; even.
        seed: of the draws.

    Geoffrey Roeder, Yuhuai Wu, David Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for
    Variational Inference", 2017.
    """
    leaves = [leaf for leaf in noise.pair.parameters.leaves.values() if leaf.requires_grad]
    optimizer = torch.optim.Adam(leaves, lr=RATE, betas=(0.9, 0.99))
    with noise.scope():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * _rate(step / steps)
            half = normal_draws(noise, num_draws // 2, fold(seed, step))
            loss = _loss(noise, guide, torch.cat([half, -half]).to(noise.pair.device, noise.pair.dtype))
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(leaves, CLIP)
            if bool(norm.isfinite()):  # a step on draws at which the density is no number is left out
                optimizer.step()


def _loss(noise: FixedNoise, guide: AutoFlow, draws: Tensor) -> Tensor:
    """-ELBO on these draws, whose gradient goes through them alone, nats."""
    placed = noise.at_noise(draws)
    with frozen(guide.flow.parameters()):
        log_q = guide.get_posterior().log_prob(placed.u)
    return (log_q - placed.log_p).mean()


def _rate(share: float) -> float:
    """Up along a line, down along a cosine."""
    return share / WARM if share < WARM else 0.5 * (1 + math.cos(math.pi * (share - WARM) / (1 - WARM)))
