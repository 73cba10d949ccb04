"""A table beside draws of the model, column by column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, MUTED, array, axes_or_new, outside_note, quiet, robust_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["columns"]

MOST = 12  # columns in one figure
FEW_VALUES = 12  # different values of a column that is drawn as bars
BINS = 24


def columns(
    data: Any,
    draws: Any,
    *,
    names: Sequence[str] | None = None,
    most: int = MOST,
    title: str = "data (grey) and draws of the model (blue)",
    ax: Axes | None = None,
) -> Axes:
    """Draw the distribution of each column: the data as grey areas, draws of the model as blue outlines.

    Of more columns than ``most``, those are drawn in which the two differ most (by the greatest difference of their
    distribution functions). What lies far out is left outside the frame, and counted.

    Args:
        data: (N, D) numbers.
        draws: (S, D) draws of the model, in the same units.
        names: of the columns; by default their numbers.
        most: how many columns are drawn.
        title: what stands above them.
        ax: whose place is taken; by default that of a new figure.

    Returns:
        the axes, within which each column has its own.

    Raises:
        ValueError: the two are no tables of the same columns.
    """
    data, draws = array(data).astype(float), array(draws).astype(float)
    if data.ndim != 2 or draws.ndim != 2 or data.shape[1] != draws.shape[1]:
        raise ValueError(f"columns: two tables of the same columns are required, got {data.shape} and {draws.shape}")
    names = [str(i) for i in range(data.shape[1])] if names is None else list(names)
    chosen = _most_different(data, draws, most)
    across = math.ceil(math.sqrt(len(chosen)))
    down = math.ceil(len(chosen) / across)
    ax = axes_or_new(ax, size=(0.4 + 2.4 * across, 0.5 + 1.9 * down))
    ax.set_axis_off()
    for place, i in enumerate(chosen):
        row, column = divmod(place, across)
        width, height = 1 / across, 1 / down
        bounds = (column * width, 1 - (row + 0.86) * height, 0.88 * width, 0.66 * height)
        _draw(ax.inset_axes(bounds), data[:, i], draws[:, i], _shortened(names[i], 48 // across))
    more = f"\n{len(chosen)} of {len(names)} columns, where they differ most" if len(chosen) < len(names) else ""
    ax.set_title(f"{title}{more}", fontsize=9, color=INK)
    return ax


def _most_different(data: np.ndarray, draws: np.ndarray, most: int) -> list[int]:
    """The columns to draw, in the order of the table."""
    if data.shape[1] <= most:
        return list(range(data.shape[1]))
    distance = [_kolmogorov_smirnov(x, y) for x, y in zip(data.T, draws.T, strict=True)]
    return sorted(np.argsort(distance)[-most:].tolist())


def _kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> float:
    both = np.concatenate([x, y])
    x, y = np.sort(x), np.sort(y)
    below = [np.searchsorted(part, both, side="right") / len(part) for part in (x, y)]
    return float(np.abs(below[0] - below[1]).max())


def _draw(ax: Axes, data: np.ndarray, draws: np.ndarray, name: str) -> None:
    whole = np.round(data)
    data = whole if np.allclose(data, whole, rtol=1e-5, atol=1e-4) else data  # as far as 32 bits can tell
    low, high, outside = robust_limits(data)
    edges = _edges(data[(low <= data) & (data <= high)])
    ax.stairs(_share(data, edges), edges, fill=True, color=MUTED)
    ax.stairs(_share(draws, edges), edges, color=ACCENT, lw=1.3)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(bottom=0)
    ax.set_title(name, fontsize=8, color=INK, pad=3)
    quiet(ax).tick_params(labelsize=7)
    ax.locator_params(axis="x", nbins=4, integer=bool(np.all(data % 1 == 0)))
    ax.spines["left"].set_visible(False)
    ax.set_yticks([])
    outside_note(ax, outside)


def _shortened(name: str, most: int) -> str:
    """A name without its middle, where it is long."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _edges(data: np.ndarray) -> np.ndarray:
    """Edges of bins: between the values where they are few, between whole numbers, or else evenly spaced."""
    values = np.unique(data)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    if np.all(values % 1 == 0):
        step = math.ceil((values[-1] - values[0] + 1) / BINS)
        return np.arange(values[0] - 0.5, values[-1] + 0.5 + step, step)
    if len(values) <= FEW_VALUES:
        middles = (values[1:] + values[:-1]) / 2
        return np.array([2 * values[0] - middles[0], *middles, 2 * values[-1] - middles[-1]])
    return np.linspace(values[0], values[-1], BINS + 1)


def _share(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of the values in each bin, for its width: areas of both add up to what lies inside."""
    counts = np.histogram(values, edges)[0]
    return counts / (len(values) * np.diff(edges))
