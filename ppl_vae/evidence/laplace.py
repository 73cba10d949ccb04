"""Evidence by a proposal of each datum's own: a normal at the mode of its posterior, and a Student t beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, resolution_of, slices
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.flat import Flat
from ppl_vae.evidence.mixture import Weighed, draws_by_width, weigh
from ppl_vae.evidence.newton import Mode, joined, mode_of
from ppl_vae.evidence.weights import join

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["Laplace"]

MOST = 50
"""Latents of a datum, at most: their covariance takes so many derivatives of the density."""
DEGREES = 5.0
"""Of freedom of Student's t, whose tails are to hold what the normal's do not."""
STARTS = 32
"""Draws of the guide whose mean is where the search for the mode begins."""


@dataclass(frozen=True, repr=False)
class Laplace:
    r"""The curvature of the posterior proposes: half of the draws of a normal at its mode, half of a Student t.

    Both have the inverse of the curvature as their scale, in the space of unconstrained latents, so correlations that
    the guide does not have are no matter: the guide says only where the search for the mode begins. Draws are weighed
    by the density of the mixture. Where the posterior is a normal (linear-Gaussian models) every estimate is exact.

    For posteriors of one mode whose latents are continuous, or summed out. A posterior of several modes far apart is
    underrated, each datum by what its other modes hold. It shows where a draw of the guide would outweigh all K draws
    (k-hat is infinite then); what neither guide nor proposal has met shows nowhere.

    Args:
        num_samples: K, draws a datum, of both together.

    Raises:
        ValueError: in use, for discrete latents that are not summed out, more than 50 latents a datum (in all, where
            some are shared by all data), or fewer than 4 draws.

    Luke Tierney, Joseph Kadane: "Accurate approximations for posterior moments and marginal densities", 1986.
    Art Owen, Yi Zhou: "Safe and effective importance sampling", 2000.

    >>> Laplace(1000)
    Laplace(1000)
    """

    num_samples: int

    @property
    def named(self) -> str:
        """The estimator and K."""
        return f"{type(self).__name__}({self.num_samples})"

    def __repr__(self) -> str:
        return self.named

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """Estimate log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`."""
        if self.num_samples < 4:
            raise ValueError(f"{self!r}: at least 4 draws are required")
        plan = Plan.of(pair, rows, self.num_samples, max_elements)
        # A search costs as many runs for one row as for many, so it takes more rows at once than the draws do.
        search = Plan.of(pair, rows, MOST, max_elements)
        modes = joined([self._mode(pair, chunk, (seed, place.start)) for place, chunk in search.row_chunks(rows)])
        parts = []
        for place, chunk in plan.row_chunks(rows):
            mode = modes if plan.rows is None else modes.rows(place)
            parts.append(self._by_mode(pair, chunk, mode, plan.draws, (seed, self.named, place.start)))
        return parts[0] if plan.rows is None else join(parts)

    def _mode(self, pair: Pair, rows: Rows, key: tuple[Any, ...]) -> Mode:
        density = pair.density(rows)  # says what it cannot be of
        by_site = self._of_guide(pair, rows, (*key, "start"))
        flat = Flat.of(pair, density, by_site)
        self._require_few(flat)
        start = flat.joined(by_site).to(pair.device)
        return mode_of(flat, start.mean(0), start.var(0), resolution=resolution_of(pair))

    def _by_mode(self, pair: Pair, rows: Rows, mode: Mode, block: int, key: tuple[Any, ...]) -> Evidence:
        by_site = self._of_guide(pair, rows, (*key, "met"))
        flat = Flat.of(pair, pair.density(rows), by_site)
        counts = draws_by_width(self.num_samples, 2)
        pieces = []
        for which, count in enumerate(counts):
            for place in slices(count, block):
                with isolated_rng(fold(*key, which, place.start), pair.device):
                    u = _draw(mode, place.stop - place.start, heavy=which == 1)
                pieces.append(_weights(flat, mode, u, counts))
        log_w, log_h = (torch.cat(column) for column in zip(*pieces, strict=True))
        found = Weighed(log_w, log_h, counts).unbiased(repr(self), resolution=resolution_of(pair))
        of_guide = _weights(flat, mode, flat.joined(by_site).to(pair.device), counts)[0].amax(0)
        outweighed = of_guide > found.value + math.log(self.num_samples)
        return replace(found, khat=found.khat.masked_fill(outweighed, math.inf))

    def _require_few(self, flat: Flat) -> None:
        if flat.size > MOST:
            raise ValueError(
                f"{self!r}: at most {MOST} latents {'of a datum' if flat.rank else 'in all, since data share some,'} "
                f"can have a covariance of their own, got {flat.size}; ImportanceWeighted has no such limit"
            )

    def _of_guide(self, pair: Pair, rows: Rows, key: tuple[Any, ...]) -> dict[str, Tensor]:
        values = pair.draw(rows, STARTS, seed=fold(*key)).values
        return pair.unconstrain(rows, {name: values[name] for name in pair.latents})[0]


def _weights(flat: Flat, mode: Mode, u: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return weigh(flat(u).cpu(), torch.stack([_log_normal(mode, u), _log_student(mode, u)]).cpu(), counts)


def _draw(mode: Mode, count: int, *, heavy: bool) -> Tensor:
    noise = torch.randn(count, *mode.loc.shape, dtype=mode.loc.dtype, device=mode.loc.device)
    if heavy:
        degrees = torch.full(noise.shape[:-1], DEGREES, dtype=noise.dtype, device=noise.device)
        noise = noise * (DEGREES / torch.distributions.Chi2(degrees).sample()).sqrt().unsqueeze(-1)
    return mode.loc + torch.einsum("...ij,s...j->s...i", mode.factor, noise)


def _squared_distance(mode: Mode, u: Tensor) -> Tensor:
    return torch.einsum("...ij,s...j->s...i", mode.root_precision, u - mode.loc).square().sum(-1)


def _log_normal(mode: Mode, u: Tensor) -> Tensor:
    return -0.5 * (_squared_distance(mode, u) + u.shape[-1] * math.log(2 * math.pi)) - mode.log_det_factor


def _log_student(mode: Mode, u: Tensor) -> Tensor:
    size = u.shape[-1]
    constant = math.lgamma((DEGREES + size) / 2) - math.lgamma(DEGREES / 2) - size / 2 * math.log(DEGREES * math.pi)
    return constant - (DEGREES + size) / 2 * torch.log1p(_squared_distance(mode, u) / DEGREES) - mode.log_det_factor
