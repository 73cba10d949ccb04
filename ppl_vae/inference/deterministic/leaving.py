r"""Do chains that begin at a guide's draws stay where the guide has its mass?

The posterior over the guide's noise is :math:`N(\varepsilon; 0, I) \, w(\varepsilon)`, but for a constant, with weights
w = p / q. Where the guide is the posterior, w is constant, and Hamiltonian Monte Carlo that starts with its draws only
stirs them. Where the posterior goes on beyond the guide (the arm of a ridge, the neck of a funnel, a tail), hardly a
draw of the guide says so, and chains walk there.

Radford Neal, "MCMC using Hamiltonian dynamics", 2011. Starting it at the draws of a variational fit: Matthew Hoffman,
"Learning Deep Latent Gaussian Models with Markov Chain Monte Carlo", 2017.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["COVERED", "chains"]

COVERED = 0.1
"""A place counts as missed where the guide has less than this share of the posterior's density."""
_CHAINS, _FEWEST, _TRAJECTORIES, _LEAPS = 256, 64, 8, 6
"""So many chains, fewer where data are many."""
_FIRST, _HARDLY = 4, 0.01
"""After so many trajectories the chains end if no more than this share of them have left: what leaks leaks at once."""
_STEPS = 0.1, 1.0
"""Of the guide's standard deviations, even in their logarithm: no one length suits the neck and the mouth."""


def chains(noise: FixedNoise, log_evidence: float, *, seed: int) -> Tensor:
    """Where 64 to 256 chains of Hamiltonian Monte Carlo were in their second half: log of posterior over guide, (S,).

    They end early where hardly one has left the guide.

    Args:
        noise: the pair's runs, at the parameters of the guide.
        log_evidence: log Z of the posterior, nats.
        seed: of the chains.
    """
    generator = torch.Generator().manual_seed(seed)
    pair, dim = noise.pair, noise.noise_dim
    count = min(_CHAINS, max(_FEWEST, noise.block // 4))

    def drawn(*shape: int, normal: bool = True) -> Tensor:
        made = (torch.randn if normal else torch.rand)(shape, dtype=torch.float64, generator=generator)
        return made.to(pair.device, pair.dtype)

    low, high = (math.log(step / dim**0.25) for step in _STEPS)
    kept = []
    with noise.scope():
        place = drawn(count, dim)
        value, slope = _target(noise, place)
        for trajectory in range(_TRAJECTORIES):
            step = (low + (high - low) * drawn(count, 1, normal=False)).exp()
            speed = drawn(count, dim)
            energy = value - speed.square().sum(-1) / 2
            at, pull, found = place, slope, value
            for _ in range(_LEAPS):
                speed = speed + step / 2 * pull
                at = at + step * speed
                found, pull = _target(noise, at)
                speed = speed + step / 2 * pull
            gained = found - speed.square().sum(-1) / 2 - energy
            moved = drawn(count, normal=False).log() < gained.nan_to_num(-math.inf, -math.inf, -math.inf)
            place = torch.where(moved.unsqueeze(-1), at, place)
            slope = torch.where(moved.unsqueeze(-1), pull, slope)
            value = torch.where(moved, found, value)
            kept.append(value + place.square().sum(-1) / 2 - log_evidence)
            if trajectory + 1 == _FIRST and float((kept[-1] > -math.log(COVERED)).double().mean()) <= _HARDLY:
                break
    return torch.cat(kept[len(kept) // 2 :]).cpu().double()


def _target(noise: FixedNoise, place: Tensor) -> tuple[Tensor, Tensor]:
    """Log density of the posterior over noise, but for a constant, (S,), and its gradient, 0 where it is none."""
    if len(place) > noise.block:
        parts = [_target(noise, part) for part in place.split(noise.block)]
        return torch.cat([value for value, _ in parts]), torch.cat([slope for _, slope in parts])
    at = place.detach().requires_grad_()
    try:
        placed = noise.at_noise(at)
        value = placed.log_p - placed.log_q - at.square().sum(-1) / 2
    except torch.linalg.LinAlgError:  # one of many matrices has no factor: all these moves are refused
        return place.new_full((len(place),), -math.inf), torch.zeros_like(place)
    (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope.nan_to_num(0.0, 0.0, 0.0)
