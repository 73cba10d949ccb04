"""Value, gradient and Hessian of a log density at many points at once, and what of a Hessian can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Curvature", "Density", "curvature", "safeguarded"]

_LEAST = 1e-12
"""Eigenvalues, of the Hessian with ones on its diagonal, below this share of the greatest are noise of rounding."""


@dataclass(frozen=True)
class Curvature:
    """Of a log density at K points of D numbers: ``value`` (K,), ``gradient`` (K, D), ``hessian`` (K, D, D)."""

    value: Tensor
    gradient: Tensor
    hessian: Tensor


class Density(Protocol):
    """A log density over D numbers, in nats."""

    @property
    def block(self) -> int:
        """At how many points at once it may be asked."""

    def at(self, u: Tensor) -> Tensor:
        """At points (S, D), (S,), with derivatives."""

    def heights(self, u: Tensor) -> Tensor:
        """The same without, at any number of points: minus infinity where it is no number."""


def curvature(density: Density, points: Tensor) -> Curvature:
    """Differentiate a log density twice.

    Row i of a Hessian is the derivative of one entry of the gradient at a copy of the point, so all rows of all points
    come from one run on K D points. Where a model has no second derivatives, or a custom function of which this is not
    known, central differences of gradients stand for them, at K (2 D + 1) points.

    Args:
        density: the log density, point by point.
        points: (K, D).
    """
    count, dim = points.shape
    step = max(1, density.block // max(1, dim))
    parts = [_curvature(density, points[i : i + step]) for i in range(0, count, step)]
    return Curvature(
        torch.cat([p.value for p in parts]),
        torch.cat([p.gradient for p in parts]),
        torch.cat([p.hessian for p in parts]),
    )


def _curvature(density: Density, points: Tensor) -> Curvature:
    count, dim = points.shape
    copies = points.detach().repeat_interleave(dim, 0).requires_grad_()
    value = density.at(copies)
    if not value.requires_grad:  # the latents are in no term
        return Curvature(value[::dim], torch.zeros_like(points), points.new_zeros(count, dim, dim))
    if _has_custom_function(value):  # without second derivatives it may leave them out, and say nothing
        return _by_differences(density, points)
    try:
        (gradient,) = torch.autograd.grad(value.sum(), copies, create_graph=True)
        entries = gradient.reshape(count, dim, dim).diagonal(dim1=1, dim2=2)
        (rows,) = torch.autograd.grad(entries.sum(), copies, allow_unused=True) if entries.requires_grad else (None,)
        hessian = (torch.zeros_like(copies) if rows is None else rows).reshape(count, dim, dim)
    except RuntimeError:  # "derivative ... is not implemented": of the second order
        return _by_differences(density, points)
    first = slice(None, None, dim)
    return Curvature(value.detach()[first], gradient.detach()[first], _symmetric(hessian.detach()))


def _has_custom_function(value: Tensor) -> bool:
    """Does a value hang on a ``torch.autograd.Function``? Marked ``once_differentiable`` it is silently a constant."""
    seen: set[Any] = set()
    nodes = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False


def _by_differences(density: Density, points: Tensor) -> Curvature:
    count, dim = points.shape
    step = 1e-5 * points.abs().clamp_min(1.0)
    shifts = torch.diag_embed(step)  # (K, D, D)
    around = torch.cat([torch.zeros_like(points).unsqueeze(1), shifts, -shifts], 1)  # (K, 2 D + 1, D)
    values, gradients = [], []
    for part in (points.detach().unsqueeze(1) + around).reshape(-1, dim).split(density.block):
        moved = part.clone().requires_grad_()
        value = density.at(moved)
        gradients += torch.autograd.grad(value.sum(), moved)
        values.append(value.detach())
    gradient, forth, back = torch.cat(gradients).reshape(count, -1, dim).split([1, dim, dim], 1)
    hessian = (forth - back) / (2 * step.unsqueeze(-1))
    return Curvature(torch.cat(values).reshape(count, -1)[:, 0], gradient[:, 0], _symmetric(hessian))


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.transpose(-2, -1)) / 2


def safeguarded(precision: Tensor) -> tuple[Tensor, Tensor]:
    """A positive definite matrix near a symmetric one, as the lower factor of its inverse, and whether it was one.

    The matrix is brought to ones on its diagonal first, so that columns in different units are no matter; eigenvalues
    are taken by their magnitude, and not below rounding.

    Args:
        precision: (K, D, D), minus the Hessian of a log density.

    Returns:
        (K, D, D) lower triangular, the factor of the covariance; (K,) bool.
    """
    size = precision.diagonal(dim1=-2, dim2=-1).abs()
    size = torch.where(size > 0, size, torch.ones_like(size)).sqrt()
    scaled = precision / (size.unsqueeze(-1) * size.unsqueeze(-2))
    finite = scaled.isfinite().flatten(1).all(1)
    eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    scaled = torch.where(finite[:, None, None], scaled, eye)
    values, vectors = torch.linalg.eigh(scaled)
    greatest = values.abs().amax(-1, keepdim=True)
    definite = finite & (values[:, 0] > _LEAST * greatest[:, 0])
    values = values.abs().clamp_min(_LEAST * greatest)
    # R of the QR decomposition of the root of the inverse is the factor: no product is made that could lose digits.
    root = (vectors * values.rsqrt().unsqueeze(-2)).transpose(-2, -1) / size.unsqueeze(-2)
    upper = torch.linalg.qr(root, mode="r").R
    sign = upper.diagonal(dim1=-2, dim2=-1).sign()
    factor = (upper * torch.where(sign == 0, 1.0, sign).unsqueeze(-1)).transpose(-2, -1)
    return factor, definite
