"""The modes of many densities at once, and their curvature there: Newton's method, guarded, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Mode", "joined", "mode_of"]

MOST_STEPS, MOST_HALVINGS = 50, 30
ENOUGH = 1e-6
"""Nats that the next step is predicted to gain, at most, where the search ends."""
WIDEST = 1e4
"""Variance in any direction, as a multiple of the largest of the guide's: a flat direction has no curvature."""


@dataclass(frozen=True)
class Mode:
    """A mode of each density, and its scale there: the inverse of the curvature.

    Attributes:
        loc: (..., D).
        factor: (..., D, D), factor factor' the covariance.
        root_precision: the inverse of ``factor``.
        log_det_factor: (...).
    """

    loc: Tensor
    factor: Tensor
    root_precision: Tensor
    log_det_factor: Tensor

    def rows(self, place: slice) -> Mode:
        """Those of some rows."""
        return Mode(self.loc[place], self.factor[place], self.root_precision[place], self.log_det_factor[place])


def joined(parts: Sequence[Mode]) -> Mode:
    """The modes of pieces of the rows as those of all; one piece is itself."""
    if len(parts) == 1:
        return parts[0]
    names = ("loc", "factor", "root_precision", "log_det_factor")
    return Mode(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def mode_of(density: Callable[[Tensor], Tensor], start: Tensor, variance: Tensor, *, resolution: float = 1e-9) -> Mode:
    """Climb from ``start`` to a mode of each density.

    A curvature that is not positive counts by its absolute value, as does one that is next to none by a small one
    (Nocedal, Wright, "Numerical Optimization", 2006, section 3.4). A step that does not climb is halved.

    Args:
        density: log densities (S, ...) of points (S, ..., D), twice differentiable; no row knows of another.
        start: (..., D), float64.
        variance: of the guide, (..., D): the unit of length.
        resolution: the relative error of the densities: a gain that is no larger is none.
    """
    largest = variance.amax(-1, keepdim=True)
    floor = 1 / (WIDEST * torch.where(largest > 0, largest, torch.ones_like(largest)))
    at = start.clone()
    value, gradient, curvature = _derivatives(density, at)
    for _ in range(MOST_STEPS):
        eigenvalues, vectors = torch.linalg.eigh(curvature)
        inverse = 1 / torch.maximum(eigenvalues.abs(), floor)
        step = (vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ gradient.unsqueeze(-1)))).squeeze(-1)
        promised = (gradient * step).sum(-1)
        goes = promised > 2 * (resolution * value.abs()).clamp(min=ENOUGH)
        if not bool(goes.any()):
            break
        moved = _climbed(density, at, step * goes.unsqueeze(-1), value, promised * goes)
        if torch.equal(moved, at):
            break
        at = moved
        value, gradient, curvature = _derivatives(density, at)
    eigenvalues, vectors = torch.linalg.eigh(curvature)
    scale = torch.maximum(eigenvalues.abs(), floor).rsqrt()
    return Mode(at, vectors * scale.unsqueeze(-2), vectors.mT / scale.unsqueeze(-1), scale.log().sum(-1))


def _climbed(density: Callable[[Tensor], Tensor], at: Tensor, step: Tensor, value: Tensor, promised: Tensor) -> Tensor:
    """The points after a step, each halved until it climbs; a point whose every step falls stays."""
    length = torch.ones_like(value)
    for _ in range(MOST_HALVINGS):
        there = at + length.unsqueeze(-1) * step
        climbs = _value(density, there) >= value + 1e-4 * length * promised
        if bool(climbs.all()):
            return there
        length = torch.where(climbs, length, length / 2)
    return torch.where(climbs.unsqueeze(-1), there, at)


def _value(density: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return density(at.unsqueeze(0))[0].nan_to_num(nan=-torch.inf)
    except (ValueError, ArithmeticError):  # an argument check has met a number that is out of range
        return torch.full_like(at[..., 0], -torch.inf)


def _derivatives(density: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log density (...), gradient (..., D) and minus the Hessian (..., D, D)."""
    size = at.shape[-1]
    # Row i of a Hessian is the derivative of entry i of the gradient at the i-th copy, so one run gives all rows.
    u = at.detach().expand(size, *at.shape).clone().requires_grad_()
    with torch.enable_grad():
        value = density(u)
        (gradient,) = torch.autograd.grad(value.sum(), u, create_graph=True)
        entries = gradient.diagonal(dim1=0, dim2=-1).sum()
        found = torch.autograd.grad(entries, u, allow_unused=True)[0] if entries.requires_grad else None
    hessian = (torch.zeros_like(u) if found is None else found).movedim(0, -2)
    return value[0].detach(), gradient[0].detach(), -(hessian + hessian.mT) / 2
