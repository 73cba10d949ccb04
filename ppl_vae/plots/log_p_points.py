"""log p(x) of every datum, the oddest by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, SECOND, array, axes_or_new, quiet, robust_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["log_p_points"]

NAMED = 5


def log_p_points(log_p: Any, *, names: Sequence[Any] | None = None, named: int = NAMED, ax: Axes | None = None) -> Axes:
    """Draw log p(x) of every datum, sorted, and name the least.

    Data far below the rest stand at the lower edge as triangles, with their values.

    Args:
        log_p: (N,) nats, such as ``fit.log_evidence(x).value``.
        names: of the data; by default their numbers.
        named: how many of the least are named.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.

    Raises:
        ValueError: no finite number; names that are not as many.
    """
    values = array(log_p).astype(float).reshape(-1)
    names = [str(i) for i in range(len(values))] if names is None else [str(name) for name in names]
    if len(names) != len(values):
        raise ValueError(f"log_p_points: a name for each of {len(values)} data is required, got {len(names)}")
    if not np.isfinite(values).any():
        raise ValueError("log_p_points: at least one finite log p is required, got none")
    ax = axes_or_new(ax)
    order = np.argsort(values, kind="stable")  # NaN comes last
    order = order[~np.isnan(values[order])]
    found = values[order]
    low, high, _ = robust_limits(found[np.isfinite(found)])
    share = 100 * (np.arange(len(found)) + 0.5) / len(found)
    inside, odd = found >= low, np.arange(len(found)) < named
    margin = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - 2 * margin, high + margin)
    for part, color in ((inside & ~odd, ACCENT), (inside & odd, SECOND)):
        ax.scatter(share[part], found[part], color=color, s=10, lw=0)
    ax.scatter(share[~inside], np.full((~inside).sum(), low - margin), color=SECOND, s=30, lw=0, marker="v")
    lines = [f"{names[i]}  {_plain(values[i])}" for i in order[:named]]
    below = f"  ({int((~inside).sum())} below the frame)" if (~inside).any() else ""
    text = "\n".join([f"the least{below}", *lines])
    ax.text(0.99, 0.04, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color=SECOND)
    return quiet(ax, xlabel="data, from the least to the greatest log p(x) (%)", ylabel="log p(x) (nats)")


def _plain(value: float) -> str:
    if abs(value) < 1000:
        return f"{value:.1f}"
    return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.1e}"
