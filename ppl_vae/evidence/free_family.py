"""The family that a guide of normal draws is of, with parameters of each datum's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae._random import fold
from ppl_vae.distributions import unwrap
from ppl_vae.pair.law import FlowLaw, Law
from ppl_vae.pair.particles import outward

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Pair

__all__ = ["FreeFamily", "require_family"]


@dataclass(frozen=True)
class FreeFamily:
    """Normals of each datum's unconstrained latents u, relative to those that the guide gives them.

    A parameter (N, P) of zeros is the guide. It moves the mean by whole standard deviations, and the spread by factors,
    so that one unit means about the same for each of them.

    Attributes:
        loc: (N, D) the guide's means, float64.
        tril: (N, D, D) the guide's lower triangular factors.
        free: (F, 2) rows and columns below the diagonal that the family lets differ from 0.
        shapes: of u by site, of one datum.
    """

    loc: Tensor
    tril: Tensor
    free: Tensor
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, pair: Pair, rows: Rows) -> FreeFamily:
        """The family of a pair's guide on some rows; ask :func:`require_family` first."""
        parts = {name: _Part.of(pair, name, law) for name, law in _laws(pair, rows, 0).items()}
        sizes = [part.loc.shape[1] for part in parts.values()]
        tril = torch.zeros(len(rows), sum(sizes), sum(sizes), dtype=torch.float64, device=pair.device)
        free = []
        for place, part in zip(torch.arange(sum(sizes)).split(sizes), parts.values(), strict=True):
            tril[:, place.unsqueeze(1), place] = part.tril
            free.append(place[0] + part.tied.tril(-1).nonzero())
        loc = torch.cat([part.loc for part in parts.values()], 1)
        return cls(loc, tril, torch.cat(free).to(pair.device), {name: part.shape for name, part in parts.items()})

    @property
    def dim(self) -> int:
        """D, the numbers of u."""
        return self.loc.shape[-1]

    @property
    def size(self) -> int:
        """P, the parameters of a datum."""
        return 2 * self.dim + len(self.free)

    @property
    def metric(self) -> Tensor:
        """(P,) the inverse curvature of the ELBO in each parameter, where the guide is the posterior."""
        found = self.loc.new_ones(self.size)
        found[self.dim : 2 * self.dim] = 0.5
        return found

    @property
    def guide(self) -> Tensor:
        """(N, P): the guide itself."""
        return self.loc.new_zeros(len(self.loc), self.size)

    def place(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """U (S, N, D) of standard normal noise (S, N or 1, D), and log q(u), (S, N) nats; with gradients."""
        moves, log_widths, entries = parameters.split([self.dim, self.dim, len(self.free)], -1)
        change = torch.diag_embed(log_widths.exp())
        if len(self.free):
            below = torch.zeros_like(change)
            below[:, self.free[:, 0], self.free[:, 1]] = entries
            change = change + below
        spread = moves + torch.einsum("nij,snj->sni", change, noise.expand(-1, len(change), -1))
        u = self.loc + torch.einsum("nij,snj->sni", self.tril, spread)
        log_det = self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + log_widths.sum(-1)
        return u, -0.5 * (noise.square().sum(-1) + self.dim * math.log(2 * math.pi)) - log_det

    @property
    def name(self) -> str:
        """In words."""
        return "normals with a full covariance" if len(self.free) else "independent normals"


def require_family(pair: Pair, rows: Rows, who: str) -> None:
    """Raise ValueError where the guide is no normal of each datum's own latents.

    Raises:
        GlobalLatentError: a latent is shared by all data.
        ValueError: says which of its draws stands against it, and why.
    """
    sites = pair.sites
    if not pair.latents:
        raise ValueError(f"{who}: a latent of each datum that the guide draws is required, and the pair has none")
    sites.require_local(who)
    sites.require_density(who)
    sites.require_whole_plates(who)
    reason = _reason_against(pair, rows)
    if reason:
        raise ValueError(
            f"{who}: a guide of normal draws is required, whose best member for a datum can be searched, but {reason}"
        )


def _reason_against(pair: Pair, rows: Rows) -> str:
    if pair.is_exact or pair.counts_volume:
        return "the z of a flow is a point, made of x"
    if discrete := [name for name, site in pair.latents.items() if site.is_discrete]:
        return f"the latent {', '.join(map(repr, discrete))} is discrete"
    if masked := [name for name, site in {**pair.latents, **pair.sites.guide}.items() if site.is_masked]:
        return f"{', '.join(map(repr, masked))} bears a mask"
    if strange := sorted(set(pair.sites.guide) - set(pair.latents)):
        return f"its latents follow from the draw of {', '.join(map(repr, strange))} (as those of autoguides do)"
    first, second = (_laws(pair, rows, seed) for seed in (0, 1))
    for name in pair.latents:
        law, other = first[name], second[name]
        if law is None or isinstance(law, FlowLaw) or len(law.numbers) > 2:
            return f"{name!r} is not: it stands on {_shown(pair, rows, name)}"
        if other is None or not all(map(torch.equal, law.numbers, other.numbers)):
            return f"the normal of {name!r} hangs on other draws, so that its best member is no normal of its own"
    for name in pair.latents:
        if not _same_space(pair, rows, name):
            return f"{name!r} is carried onto its support by another map than that of its prior's support"
    return ""


def _run(pair: Pair, rows: Rows, seed: int) -> Any:
    with pair.evaluating(fold(seed, "free_family")):
        return pair.run(rows.batch())


def _laws(pair: Pair, rows: Rows, seed: int) -> dict[str, Any]:
    """The law of each latent in one run, None where it is no normal one."""
    trace = _run(pair, rows, seed).guide_trace
    return {name: Law.of(trace.nodes[name]["fn"]) for name in pair.latents}


def _shown(pair: Pair, rows: Rows, name: str) -> str:
    return type(unwrap(_run(pair, rows, 0).guide_trace.nodes[name]["fn"])).__name__


def _same_space(pair: Pair, rows: Rows, name: str) -> bool:
    """Is u of the guide's law the u of ``pair.density``?"""
    run = _run(pair, rows, 0)
    law = Law.of(run.guide_trace.nodes[name]["fn"])
    assert law is not None
    loc = law.numbers[0]
    u = biject_to(run.model_trace.nodes[name]["fn"].support).inv(law.value(loc)[0])
    return u.shape == loc.shape and torch.allclose(u, loc, rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class _Part:
    """One site: means (N, D), factors (N, D, D), which entries of a factor are free (D, D), and the shape of its u."""

    loc: Tensor
    tril: Tensor
    tied: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, pair: Pair, name: str, law: Law) -> _Part:
        numbers = law.numbers
        site, loc = pair.sites.guide[name], numbers[0].expand(law.shape)
        event = loc.shape[loc.dim() - len(site.event_shape) :]

        def by_row(value: Tensor, shape: torch.Size) -> Tensor:
            return outward(value, replace(site, event_shape=shape), pair.layout, particles=False)[0].double()

        means = by_row(loc, event)
        flat = means.reshape(len(means), -1)
        size = flat.shape[1]
        if not law.has_covariance:
            spread = by_row(numbers[1].expand(law.shape), event).reshape(flat.shape)
            return cls(flat, torch.diag_embed(spread), torch.zeros(size, size, dtype=torch.bool), means.shape[1:])
        side = event[-1]
        blocks = by_row(numbers[1].expand(*law.shape, side), torch.Size((*event, side)))
        blocks = blocks.reshape(len(flat), -1, side, side)
        tril, tied = flat.new_zeros(len(flat), size, size), torch.zeros(size, size, dtype=torch.bool)
        for k in range(blocks.shape[1]):  # further plates of a datum: a covariance for each entry
            place = slice(k * side, (k + 1) * side)
            tril[:, place, place], tied[place, place] = blocks[:, k], True
        return cls(flat, tril, tied, means.shape[1:])
