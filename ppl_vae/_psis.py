"""k-hat: how heavy is the upper tail of importance ratios? The same numbers whatever ArviZ is installed.

ArviZ 0.23 and 1.x differ here: the second negates its argument, rounds the size of the tail down, lets ties into it,
raises where a tail is one value, and gives NaN for 25 draws. So the fit is made here, in a few lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["MIN_DRAWS", "psis_khat", "psis_tail"]

MIN_DRAWS = 25
"""Ratios of fewer draws than this have no tail to be fitted (five draws, a fifth of the whole)."""

_TAIL = 5  # a generalized Pareto fit to fewer draws says nothing
_CONFIDENCE = 10  # the weakly informative prior of the shape: so many draws, at 0.5


def psis_khat(log_ratios: np.ndarray, *, resolution: float = 1e-9) -> np.ndarray:
    """The shape k of a generalized Pareto distribution fitted to the upper tail of importance ratios.

    Below 0.5 the ratios have a finite variance; up to 0.7 an average of so many is still practical; above 1
    it has no expectation that a sample would show.

    Args:
        log_ratios: log p(x, z) - log q(z), draws first, shape (S, N), nats.
        resolution: the relative error of the numbers. Ratios that spread by no more are constant: a perfect
            guide.

    Returns:
        shape (N,), float64. 0.0 for constant ratios, and where the whole tail is one value (a bounded ratio,
        as discrete latents have); inf where fewer than five draws stand above the rest, so that no tail can
        be fitted; nan for ratios that are NaN or +inf, and for fewer than ``MIN_DRAWS`` draws.

    Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry: "Pareto smoothed importance
    sampling", 2024.
    """
    log_ratios = np.asarray(log_ratios, dtype=np.float64)
    if log_ratios.ndim != 2:
        raise ValueError(f"psis_khat: log ratios of shape (S, N) are required, got {log_ratios.shape}")
    khat = np.full(log_ratios.shape[1], np.nan)
    if len(log_ratios) < MIN_DRAWS:
        return khat
    for n, ratios in enumerate(log_ratios.T):
        khat[n] = _khat(ratios, resolution)
    return khat


def _khat(ratios: np.ndarray, resolution: float) -> float:
    """k-hat of one datum, shape (S,)."""
    top = ratios.max()
    if not np.isfinite(top):
        return float("nan")
    tail, cutoff, step = _tail_of(ratios - top, top, resolution)
    if -cutoff <= step:
        return 0.0
    if len(tail) < _TAIL:
        return float("inf")
    if -tail[0] <= step:
        return 0.0
    shape, _ = _pareto(np.exp(tail) - np.exp(cutoff))
    return float("inf") if np.isnan(shape) else shape


def _tail_of(ratios: np.ndarray, top: float, resolution: float) -> tuple[np.ndarray, float, float]:
    """The highest ratios, sorted, of those relative to the top one; the cutoff below them; what rounding makes."""
    size = int(np.ceil(min(len(ratios) / 5, 3 * len(ratios) ** 0.5)))
    highest = np.sort(ratios)[-size - 1 :]
    cutoff = max(highest[0], np.log(np.finfo(np.float64).tiny))  # of weights that are not zero beside the greatest
    return highest[highest > cutoff], float(cutoff), resolution * max(1.0, abs(top))


@dataclass(frozen=True)
class Tail:
    """The greatest ratios of one datum.

    Attributes:
        places: of them among all, in rising order.
        log_quantiles: what a fit expects of each, relative to the greatest.
    """

    places: np.ndarray
    log_quantiles: np.ndarray


def psis_tail(ratios: np.ndarray, resolution: float) -> Tail | None:
    """The tail of log ratios (S,), smoothed; None where they are constant or few, or no tail can be fitted."""
    top = ratios.max() if len(ratios) >= MIN_DRAWS else np.inf
    if not np.isfinite(top):
        return None
    tail, cutoff, step = _tail_of(ratios - top, top, resolution)
    if len(tail) < _TAIL or -cutoff <= step or -tail[0] <= step:
        return None
    shape, scale = _pareto(np.exp(tail) - np.exp(cutoff))
    if np.isnan(shape):
        return None
    places = np.argsort(ratios, kind="stable")[-len(tail) :]
    probability = (np.arange(len(tail)) + 0.5) / len(tail)
    excess = (
        -scale * np.log1p(-probability) if shape == 0 else scale * np.expm1(-shape * np.log1p(-probability)) / shape
    )
    return Tail(places, np.log(excess + np.exp(cutoff)))


def _pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalized Pareto distribution, given sorted draws (n,) of it: posterior means.

    Jin Zhang, Michael A. Stephens: "A New and Efficient Estimation Method for the Generalized Pareto Distribution",
    2009, with the prior of the paper above for the shape.
    """
    n = len(excess)
    count = 30 + int(n**0.5)
    quartile = excess[int(n / 4 + 0.5) - 1]
    with np.errstate(all="ignore"):  # of grid points without any weight
        grid = (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile) + 1 / excess[-1]
        shapes = np.log1p(-grid[:, None] * excess).mean(axis=1)
        log_likelihood = n * (np.log(-grid / shapes) - shapes - 1)
        weights = 1 / np.exp(log_likelihood - log_likelihood[:, None]).sum(axis=1)
        counted = weights >= 10 * np.finfo(np.float64).eps
        weights, grid = weights[counted], grid[counted]
        best = np.sum(grid * weights) / np.sum(weights)
        shape = np.log1p(-best * excess).mean()
    return float((n * shape + 0.5 * _CONFIDENCE) / (n + _CONFIDENCE)), float(-shape / best)
