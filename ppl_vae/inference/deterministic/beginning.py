"""The normal that a fit begins at: the best of what several starts have found, and whether they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.inference.deterministic.base_draws import base_draws
from ppl_vae.inference.deterministic.curvature import Density, curvature, safeguarded
from ppl_vae.inference.deterministic.elsewhere import unexplained
from ppl_vae.inference.deterministic.modes import Climb, climb
from ppl_vae.inference.deterministic.one_by_one import Ascent, ascend, diagonal_elbo, diagonal_precision

__all__ = ["Beginning", "begin"]

MOST_AT_ONCE = 64
"""With more latents than these, starts climb one after the other by L-BFGS, without second derivatives on the way."""
MOST_DENSE = 512
"""With more latents than these, only the diagonal of a Hessian is looked at."""
_SAME = 0.1  # squared, in standard deviations: points that have arrived are at their mode to a thousandth of one
_DRAWS, _PASSED = 32, 200
_ROUNDS, _SHORT = 3, 30
"""So often more modes are looked for, by climbs of so many steps."""


@dataclass(frozen=True)
class Beginning:
    """Where a fit begins, and what the starts say of other places.

    Attributes:
        loc: (D,).
        precision: (D, D), or (D,) where only its diagonal is known.
        starts: how many there were.
        arrived: how many have come to a mode.
        agreed: how many of these to the one that the fit begins at.
        elsewhere: the share of the mass that other modes hold, by Laplace's method.
        modes: how many modes were found.
        escaped: starts that were above all modes when they were left, and still rising.
    """

    loc: Tensor
    precision: Tensor
    starts: int
    arrived: int = 0
    agreed: int = 0
    elsewhere: float = 0.0
    modes: int = 0
    escaped: int = 0


def begin(density: Density, starts: Tensor, *, places: Tensor | None = None, seed: int = 0) -> Beginning:
    """Climb from every start, look for more modes, and take the one with the most mass.

    Where none has arrived, or the density goes on rising (a funnel has no top), the normals along the way are compared
    by their ELBO, and the best is taken.

    Args:
        density: log p(x, u).
        starts: (K, D).
        places: (M, D), draws of the prior say, among which more starts are chosen where the density is higher than the
            modes found so far explain.
        seed: of the places that are looked at beside.

    Raises:
        ValueError: the density is not finite at any start.

    Lu Zhang, Bob Carpenter, Andrew Gelman, Aki Vehtari, "Pathfinder: Parallel quasi-Newton variational inference",
    2022.
    """
    height, places = density.heights(starts), starts[:0] if places is None else places
    if not bool(height.isfinite().any()):
        raise ValueError(
            f"DeterministicVI: log p(x, z) is not finite at any of {len(starts)} starts (the guide's own, the prior's "
            "median, draws of the prior and of (-2, 2) in the unconstrained space); give start= latents by site at "
            "which the data are possible, or look for a density that is 0 or infinite"
        )
    starts = starts[height.isfinite()]
    if starts.shape[1] > MOST_AT_ONCE:
        order = height[height.isfinite()].argsort(descending=True)
        return _one_by_one(density, starts[order], places, fold(seed, "elsewhere"))
    found = climb(density, starts)
    modes = _modes(found)
    for round_ in range(_ROUNDS if modes else 0):
        tops = [mode[0] for mode in modes]
        more = unexplained(
            density,
            found.u[tops],
            found.factor[tops],
            found.log_mass[tops],
            places,
            seed=fold(seed, "elsewhere", round_),
        )
        if not len(more):
            break
        found, before = found.joined(climb(density, more, max_iter=_SHORT)), len(modes)
        modes = _modes(found)
        if len(modes) == before:
            break
    top = max((float(found.log_p[mode[0]]) for mode in modes), default=-math.inf)
    escaped = int((~found.arrived & (found.log_p > top + 1)).sum())
    points = found.u[[mode[0] for mode in modes]], found.factor[[mode[0] for mode in modes]]
    if not modes or escaped:
        points = tuple(torch.cat(pair) for pair in zip(points, _thinned(found.path), strict=True))  # type: ignore[assignment]
        which = int(_elbos(density, *points).argmax())
    else:
        which = 0
    loc, factor = points[0][which], points[1][which]
    masses = torch.stack([found.log_mass[mode[0]] for mode in modes]) if modes else torch.zeros(0)
    mine = len(modes[which]) if which < len(modes) else 0
    shares = masses.softmax(0)
    return Beginning(
        loc,
        _inverse(factor),
        len(found.u),
        int(found.arrived.sum()),
        mine,
        float(1 - shares[which]) if which < len(modes) else float(shares.sum()),
        len(modes),
        escaped,
    )


def _modes(found: Climb) -> list[list[int]]:
    """The starts that have arrived, by mode, the one with the most mass first."""
    order = [int(i) for i in found.log_mass.argsort(descending=True) if found.arrived[i]]
    modes: list[list[int]] = []
    for i in order:
        for mode in modes:
            apart = (found.u[i] - found.u[mode[0]]).unsqueeze(-1)
            white = torch.linalg.solve_triangular(found.factor[mode[0]], apart, upper=False)
            if float(white.square().sum()) < _SAME:
                mode.append(i)
                break
        else:
            modes.append([i])
    return modes


def _thinned(path: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    every = max(1, len(path[0]) // _PASSED)
    return path[0][::every], path[1][::every]


def _elbos(density: Density, locs: Tensor, factors: Tensor) -> Tensor:
    """The ELBO of M normals at few draws, (M,); a place that is no number is the worst."""
    dim = locs.shape[1]
    draws = base_draws(max(_DRAWS, 4 * dim), dim, seed=0).to(locs)
    points = locs.unsqueeze(1) + draws @ factors.transpose(-2, -1)
    height = density.heights(points.reshape(-1, dim)).reshape(len(locs), -1)
    value = height.mean(1) + factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.where(value.isfinite(), value, -math.inf)


def _inverse(factor: Tensor) -> Tensor:
    """The precision whose covariance has this factor."""
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    return inverse.T @ inverse


def _one_by_one(density: Density, starts: Tensor, places: Tensor, seed: int) -> Beginning:
    """With many latents: three starts, the highest first, one after the other, and the best normal on their ways.

    A hierarchy has its highest density where it is no posterior (all of a group alike, and their spread 0), so that it
    is the ELBO of normals that decides, and not the height. Where that is a mode, two more starts are chosen where the
    density is higher than it explains.
    """
    begun = starts[:3]
    ends = [ascend(density, start) for start in begun]
    loc, precision = _best_passed(density, begun, ends)
    dense = len(loc) <= MOST_DENSE
    if dense and _agree(ends, loc, precision):
        factor, log_mass, definite = _laplace(density, loc)
        mode = loc.unsqueeze(0), factor.unsqueeze(0), log_mass.unsqueeze(0)
        more = unexplained(density, *mode, places, seed=seed) if definite else begun[:0]
        if len(more):
            more = more[[0, -1]]  # the highest, and one by chance
            begun, ends = torch.cat([begun, more]), [*ends, *(ascend(density, start) for start in more)]
            loc, precision = _best_passed(density, begun, ends)
    agreed = _agree(ends, loc, precision)
    others = [end for end in ends if end.arrived and not _agree([end], loc, precision)] if dense and agreed else []
    masses = [log_mass for _, log_mass, definite in (_laplace(density, end.path[-1]) for end in others) if definite]
    elsewhere = 0.0
    if masses:  # ends at one other mode are no more than one
        elsewhere = float(torch.sigmoid(max(masses) - _laplace(density, loc)[1]))
    if agreed and dense:
        precision = -curvature(density, loc.unsqueeze(0)).hessian[0]
    arrived, modes = sum(end.arrived for end in ends), (1 + bool(masses) if agreed else 0)
    return Beginning(loc, precision, len(ends), arrived, agreed, elsewhere, modes)


def _best_passed(density: Density, begun: Tensor, ends: list[Ascent]) -> tuple[Tensor, Tensor]:
    """The place of the highest ELBO of a normal with independent entries, (D,), and its precision, (D,)."""
    points = torch.cat([begun, *(end.path for end in ends)])
    precisions = [diagonal_precision(density, u) for u in points]
    elbos = [diagonal_elbo(density, u, precision) for u, precision in zip(points, precisions, strict=True)]
    best = max(range(len(elbos)), key=elbos.__getitem__)
    return points[best], precisions[best]


def _agree(ends: list[Ascent], loc: Tensor, precision: Tensor) -> int:
    """How many have arrived at this place."""
    lasts = torch.stack([end.path[-1] for end in ends])
    apart = ((lasts - loc).square() * precision).mean(1)
    return sum(end.arrived and float(a) < _SAME for end, a in zip(ends, apart, strict=True))


def _laplace(density: Density, loc: Tensor) -> tuple[Tensor, Tensor, bool]:
    """At a place (D,): the factor (D, D) of the covariance that the curvature gives, the log mass, is it a mode's?"""
    at = curvature(density, loc.unsqueeze(0))
    factor, definite = safeguarded(-at.hessian)
    log_det = factor[0].diagonal().log().sum()
    return factor[0], at.value[0] + log_det + 0.5 * len(loc) * math.log(2 * math.pi), bool(definite[0])
