"""Smooth minimization by SciPy, and how far a point may be from its minimum: the Newton decrement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Minimum", "minimize", "newton_decrement"]

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]

_STEP = 1e-4
"""Of differences of gradients, in coordinates in which 1 is a standard deviation."""
_MEMORY = 20
_ROUNDS = 3


@dataclass(frozen=True)
class Minimum:
    """Where a minimization ended: ``v``, ``value``, ``decrement`` (nats that a Newton step would still gain; infinite
    where the function curves down).
    """

    v: np.ndarray
    value: float
    decrement: float


def minimize(function: Function, start: np.ndarray, *, max_iter: int, tol: float) -> Minimum:
    """L-BFGS until the Newton decrement is at most ``tol``; Newton steps where it stalls before.

    Args:
        function: v -> (value, gradient), float64.
        start: the first v.
        max_iter: of each round of L-BFGS.
        tol: nats.
    """
    from scipy import optimize

    v = np.asarray(start, dtype=np.float64)
    found = Minimum(v, function(v)[0], np.inf)
    for _ in range(_ROUNDS):
        least = 1e-3 * tol / max(1.0, abs(found.value))  # a step that gains so little of `tol` is the last
        options = {"maxiter": max_iter, "maxcor": _MEMORY, "ftol": least, "gtol": 1e-6}
        ended = optimize.minimize(function, found.v, jac=True, method="L-BFGS-B", options=options)
        value, gradient = function(ended.x)
        found = Minimum(ended.x, value, newton_decrement(function, ended.x, gradient, enough=tol / 10))
        if found.decrement <= tol or ended.status == 1:
            break
        ended = optimize.minimize(
            function, found.v, jac=True, hessp=_products(function), method="trust-ncg", options={"maxiter": 20}
        )
        if ended.fun <= found.value:
            value, gradient = function(ended.x)
            found = Minimum(ended.x, value, newton_decrement(function, ended.x, gradient, enough=tol / 10))
        if found.decrement <= tol:
            break
    function(found.v)  # the parameters are left there
    return found


def newton_decrement(
    function: Function, v: np.ndarray, gradient: np.ndarray, *, enough: float, max_iter: int = 40
) -> float:
    r"""What is left to gain, :math:`g^T H^{-1} g / 2`, by conjugate gradients; infinite where H curves down.

    It does not depend on the units of v, as a gradient's norm does. Each step of conjugate gradients adds what it
    gains; the rest is bounded by what is left of the gradient over the least curvature that was met.

    Args:
        function: v -> (value, gradient).
        v, gradient: a point, and the gradient there.
        enough: a bound of the rest, in nats, at which no more steps are made.
        max_iter: steps.
    """
    product = _products(function)
    residual, gained, least = -gradient, 0.0, np.inf
    direction, square = residual.copy(), float(residual @ residual)
    for _ in range(max_iter):
        if square == 0.0:
            return gained
        curved = product(v, direction)
        curvature = float(direction @ curved)
        if curvature <= 0:
            return np.inf
        least = min(least, curvature / float(direction @ direction))
        if gained + square / (2 * least) <= enough:
            return gained + square / (2 * least)
        length = square / curvature
        gained += 0.5 * length * square
        residual = residual - length * curved
        before, square = square, float(residual @ residual)
        if square / (2 * least) <= 0.01 * gained:
            break
        direction = residual + square / before * direction
    return gained + square / (2 * least)


def _products(function: Function) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Hessian-vector products by central differences of gradients, which every differentiable model has."""

    def product(v: np.ndarray, direction: np.ndarray) -> np.ndarray:
        norm = float(np.linalg.norm(direction))
        if norm == 0.0:
            return np.zeros_like(v)
        step = _STEP / norm
        ahead, behind = function(v + step * direction)[1], function(v - step * direction)[1]
        difference: np.ndarray = (ahead - behind) / (2 * step)
        return difference

    return product
