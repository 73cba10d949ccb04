"""Smooth minimization by SciPy, and how far a point may be from its minimum: the Newton decrement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["WORST", "Minimum", "minimize", "newton_decrement"]

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]

WORST = 1e12
"""The value, with a gradient of zeros, that stands where a function is no number: a line search turns back from it."""
_STEP = 1e-4
"""Of differences of gradients, in coordinates in which 1 is a standard deviation."""
_LOOKS = 4
"""In so many directions, at least, curvature is measured: the first ones do not see what is nearly flat."""
_ROUNDING = 1e-6
"""Below this share of the gradient, what is left of it is an error of the differences."""
_MEMORY = 20
_ROUNDS = 3


@dataclass(frozen=True)
class Minimum:
    """Where a minimization ended: ``v``, ``value``, ``decrement`` (nats that a Newton step would still gain; infinite
    where the function does not curve up, or is no number).
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
        least = 1e-2 * tol / max(1.0, abs(found.value))  # a step that gains so little of `tol` is the last
        options = {"maxiter": max_iter, "maxcor": _MEMORY, "ftol": least, "gtol": 1e-6}
        ended = optimize.minimize(function, found.v, jac=True, method="L-BFGS-B", options=options)
        found = _judged(function, ended.x, tol)
        if found.decrement <= tol:
            break
        cut_short = ended.status == 1
        ended = optimize.minimize(
            function,
            found.v,
            jac=True,
            hessp=_products(function),
            method="trust-ncg",
            options={"maxiter": min(20, max_iter)},
        )
        if ended.fun <= found.value:
            found = _judged(function, ended.x, tol)
        if found.decrement <= tol or cut_short:
            break
    function(found.v)  # the parameters are left there
    return found


def _judged(function: Function, v: np.ndarray, tol: float) -> Minimum:
    value, gradient = function(v)
    if value >= WORST:
        return Minimum(v, value, np.inf)
    return Minimum(v, value, newton_decrement(function, v, gradient, enough=tol / 10))


def newton_decrement(
    function: Function, v: np.ndarray, gradient: np.ndarray, *, enough: float, max_iter: int = 40
) -> float:
    r"""What is left to gain, :math:`g^T H^{-1} g / 2`, by conjugate gradients; infinite where H does not curve up.

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
    nothing = _ROUNDING**2 * square
    for looks in range(1, max_iter + 1):
        if square <= nothing:
            break
        curved = product(v, direction)
        curvature = float(direction @ curved)
        if not curvature > 0:
            return np.inf
        least = min(least, curvature / float(direction @ direction))
        rest = square / (2 * least)
        if looks >= _LOOKS and (gained + rest <= enough or rest <= 0.01 * gained):
            break
        length = square / curvature
        gained += 0.5 * length * square
        residual = residual - length * curved
        before, square = square, float(residual @ residual)
        direction = residual + square / before * direction
    return gained + square / (2 * least)


def _products(function: Function) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Hessian-vector products by central differences of gradients, which every differentiable model has."""

    def product(v: np.ndarray, direction: np.ndarray) -> np.ndarray:
        norm = float(np.linalg.norm(direction))
        if norm == 0.0:
            return np.zeros_like(v)
        step = _STEP / norm
        ahead, behind = function(v + step * direction), function(v - step * direction)
        if max(ahead[0], behind[0]) >= WORST:  # at the edge of what is a number nothing is known of the curvature
            return np.zeros_like(v)
        difference: np.ndarray = (ahead[1] - behind[1]) / (2 * step)
        return difference

    return product
