"""Where a fit may begin: the guide's own location, the prior, numbers near 0, and what the caller says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous, AutoGuide, AutoGuideList
from torch import Tensor

from ppl_vae._private import pyro_name
from ppl_vae._random import fold
from ppl_vae.pair.fixed_noise import FixedNoise
from ppl_vae.pair.particles import inward, of_unconstrained

__all__ = ["candidates", "of_prior", "u_of_values"]

NEAR = 2.0
"""Random starts lie within this of 0 in the unconstrained space, as in Stan."""
_PRIOR_DRAWS = 64


def candidates(
    noise: FixedNoise, data: Any, count: int, *, seed: int, given: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Starts (K, D): the caller's, the guide's own, the prior's median, then draws of the prior and of (-2, 2) in turn.

    Args:
        noise: the pair's runs.
        data: the rows.
        count: K, at least.
        seed: of what is drawn.
        given: latents by site that the caller would begin at, without an axis of draws.

    Raises:
        ValueError: ``given`` is not of the latents.
    """
    pair = noise.pair
    own = _own(noise)
    rows = [own]
    if given is not None:
        values = {name: torch.as_tensor(value).unsqueeze(0) for name, value in given.items()}
        rows.insert(0, u_of_values(noise, data, pair.as_values(values)))
    prior = of_prior(noise, data, _PRIOR_DRAWS, seed=seed)
    if len(prior):
        rows.append(prior.median(0).values.unsqueeze(0))
    generator = torch.Generator().manual_seed(fold(seed, "starts"))
    near = (torch.rand(count, noise.dim, dtype=torch.float64, generator=generator) * 2 - 1) * NEAR
    wide = prior[: max(0, count // 3)]
    rows += [wide, near.to(own)[: max(1, count - sum(map(len, rows)) - len(wide))]]
    return torch.cat(rows)


def _own(noise: FixedNoise) -> Tensor:
    """The guide's location, (1, D)."""
    with noise.scope(), torch.no_grad():
        zero = torch.zeros(2, noise.noise_dim, dtype=noise.pair.dtype, device=noise.pair.device)
        return noise.at_noise(zero).u[:1]


def of_prior(noise: FixedNoise, data: Any, count: int, *, seed: int) -> Tensor:
    """Draws of the prior as u, (count, D), less those that are infinite.

    There are none where the prior is improper, or where latents are not known from u.
    """
    pair = noise.pair
    empty = torch.zeros(0, noise.dim, dtype=pair.dtype, device=pair.device)
    if pair.sites.improper or pair.summed:
        return empty
    values = pair.draw_prior_values(data, count, seed=fold(seed, "prior"))
    try:
        u = u_of_values(noise, data, pair.as_values(values))
    except ValueError:
        return empty
    return u[u.isfinite().all(1)]


def u_of_values(noise: FixedNoise, data: Any, values: Mapping[str, Tensor]) -> Tensor:
    """Latents by site, (K, N, ...) or (K, ...), as u (K, D).

    Raises:
        ValueError: a site of the guide carries latents in a way that is not known (a guide of one's own with auxiliary
            draws), or a latent has no value.
    """
    pair = noise.pair
    if missing := sorted(set(pair.latents) - set(values)):
        raise ValueError(f"start: a value of every latent site is required, got none of {missing}")
    parts = []
    for name, law in noise.laws.items():
        if name in pair.latents:
            value = inward(values[name], pair.latents[name], pair.layout)
            for transform in reversed(law.transforms):
                value = transform.inv(value)
            parts.append(value.reshape(len(value), -1))
        else:
            parts.append(_of_autoguide(noise, data, name, values))
    return torch.cat(parts, -1)


def _of_autoguide(noise: FixedNoise, data: Any, name: str, values: Mapping[str, Tensor]) -> Tensor:
    pair = noise.pair
    unconstrained = pair.unconstrain(data, values)[0]

    def flat(latent: str) -> Tensor:
        u = unconstrained[latent].to(pair.device, pair.dtype)
        inner = inward(u, of_unconstrained(pair.latents[latent], u), pair.layout)
        return inner.reshape(len(inner), -1)

    for latent in pair.latents:
        if name == f"{latent}_unconstrained":
            return flat(latent)
    for part in _autoguides(pair.guide):
        if isinstance(part, AutoContinuous) and name == f"_{pyro_name(part)}_latent":
            return torch.cat([flat(latent) for latent, _ in part.prototype_trace.iter_stochastic_nodes()], -1)
    raise ValueError(f"start: how the guide's site {name!r} carries the latents is not known")


def _autoguides(guide: Any) -> Iterator[AutoGuide]:
    if isinstance(guide, AutoGuideList):
        for part in guide:
            yield from _autoguides(part)
    elif isinstance(guide, AutoGuide):
        yield guide
