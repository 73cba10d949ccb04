"""Has a series come to rest? Tests of the numbers alone: of a trend, of means that differ, and how far to trust both.

Every series here is correlated in time: the steps of a run with a constant rate walk about their mean. So no test
counts its numbers as independent; what they are worth is estimated from the series itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

__all__ = ["Trend", "effective_size", "split_rhat", "split_rhat_of_chains", "trend_of"]

BATCHES = 10
"""A trend is looked for in so many means of equal stretches: fewer cost power, more are not independent."""
LEVEL = 0.01
"""How often a trend may be found, at most, in a series that has none."""


@dataclass(frozen=True)
class Trend:
    """A straight line through a series.

    Attributes:
        rise: from the first to the last number of the series, in its units.
        standard_error: of the rise; that of correlated noise around a line.
        p_value: how often noise alone rises at least so far.
    """

    rise: float
    standard_error: float
    p_value: float

    @property
    def is_up(self) -> bool:
        """Does it rise, at the level of 1 %?"""
        return self.p_value < LEVEL


def trend_of(series: np.ndarray, *, batches: int = BATCHES) -> Trend | None:
    """Whether a series rises: a line through the means of stretches of it, with errors that follow one another.

    The means of stretches much longer than the memory of the noise are independent; what correlation is left is
    estimated from the residuals of the line, as that of an autoregression of the first order (with the small-sample
    correction of its bias), and widens the error. The test is one-sided, with Student's t.

    Args:
        series: (T,), finite, T >= 2 * ``batches``.

    Returns:
        The trend; None where the series is too short, not finite, or constant.

    Source: Prais, Winsten, "Trend estimators and serial correlation", 1954; Marriott, Pope, "Bias in the estimation of
    autocorrelations", 1954.
    """
    from scipy.stats import t as student

    series = np.asarray(series, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2 * batches or not np.isfinite(series).all():
        return None
    edges = np.linspace(0, len(series), batches + 1).astype(int)
    means = np.array([series[a:b].mean() for a, b in itertools.pairwise(edges)])
    time = (edges[:-1] + edges[1:] - 1) / 2
    time = time - time.mean()
    design = np.stack([np.ones(batches), time], 1)
    residual = means - design @ np.linalg.lstsq(design, means, rcond=None)[0]
    power = float(residual @ residual)
    if power <= 1e-24 * float(means @ means) + 1e-300:
        return None
    correlation = float(residual[1:] @ residual[:-1]) / power
    # Residuals of a line are pushed towards alternation: what independent ones show on the average is taken off.
    correlation = float(np.clip((correlation * batches + 2) / (batches - 4), 0.0, 0.9))
    white, of_white = _without_memory(means, correlation), _without_memory(design, correlation)
    slope = np.linalg.lstsq(of_white, white, rcond=None)[0]
    freedom = batches - 2 - (correlation > 0)
    left = white - of_white @ slope
    covariance = np.linalg.inv(of_white.T @ of_white) * float(left @ left) / freedom
    length = len(series) - 1
    rise, error = float(slope[1]) * length, float(np.sqrt(covariance[1, 1])) * length
    return Trend(rise, error, float(student.sf(rise / error, freedom)) if error > 0 else float(rise <= 0))


def _without_memory(values: np.ndarray, correlation: float) -> np.ndarray:
    """Prais and Winsten's transform: independent noise from an autoregression of the first order."""
    first = np.sqrt(1 - correlation**2) * values[:1]
    return np.concatenate([first, values[1:] - correlation * values[:-1]])


def split_rhat(series: np.ndarray) -> np.ndarray:
    """R-hat of the two halves of each series: near 1 where their means differ by little, beside the spread in each.

    Args:
        series: (T, K), T >= 4.

    Returns:
        (K,); 1 for a series that does not move.

    Source: Gelman, Carlin, Stern, Dunson, Vehtari, Rubin, "Bayesian Data Analysis", 3rd ed., 2013; for iterates:
    Welandawe, Andersen, Vehtari, Huggins, "A Framework for Improving the Reliability of Black-box Variational
    Inference", 2024.
    """
    return split_rhat_of_chains(np.asarray(series)[:, None])


def split_rhat_of_chains(chains: np.ndarray) -> np.ndarray:
    """R-hat of the halves of all chains.

    Args:
        chains: (T, C, ...), T >= 4 values of C chains.

    Returns:
        (...); 1 for chains that do not move and agree.

    Source: as :func:`split_rhat`.
    """
    chains = np.asarray(chains, dtype=np.float64)
    half = len(chains) // 2
    halves = np.concatenate([chains[:half], chains[-half:]], 1)
    within = halves.var(0, ddof=1).mean(0)
    between = halves.mean(0).var(0, ddof=1)
    moves = within > 0
    ratio = np.divide(between, within, out=np.zeros_like(within), where=moves)
    return np.where(moves, np.sqrt((half - 1) / half + ratio), np.where(between > 0, np.inf, 1.0))


def effective_size(series: np.ndarray) -> np.ndarray:
    """How many independent numbers would tell as much of the mean: (K,) of series (T, K).

    Source: Geyer, "Practical Markov chain Monte Carlo", 1992 (the initial positive sequence).
    """
    series = np.asarray(series, dtype=np.float64)
    size = len(series)
    centred = series - series.mean(0)
    spectrum = np.fft.rfft(centred, 2 * size, axis=0)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:size] / size
    variance = covariance[0]
    moves = variance > 0
    rho = np.divide(covariance, variance, out=np.zeros_like(covariance), where=moves)
    pairs = rho[: size - size % 2].reshape(-1, 2, series.shape[1]).sum(1)
    positive = np.cumprod(pairs > 0, axis=0)
    time = np.maximum(2 * (pairs * positive).sum(0) - 1, 1.0)
    return np.where(moves, size / time, float(size))
