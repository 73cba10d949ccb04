"""Numbers of replicated data sets, and where those of the data are among them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import INK, MUTED, SECOND, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_histograms"]

MOST = 12
BINS = 30


def check_histograms(check: Any, *, ax: Axes | None = None) -> Axes:
    """Draw a histogram of each quantity over replicated data sets, with a line where that of the data is.

    The p-value stands above. Of more than 12 quantities the most extreme are drawn.

    Args:
        check: a ``PredictiveCheck``, of ``diagnostics.predictive_check``.
        ax: whose place is taken; by default that of a new figure.

    Returns:
        the axes, within which each quantity has its own.
    """
    order = array(check.two_sided).argsort(kind="stable")[:MOST]
    chosen = sorted(order.tolist())
    across = min(len(chosen), 3) if len(chosen) != 4 else 2
    down = math.ceil(len(chosen) / across)
    ax = axes_or_new(ax, size=(0.4 + 2.8 * across, 0.6 + 2.1 * down))
    ax.set_axis_off()
    extreme = array(check.extreme)
    for place, which in enumerate(chosen):
        row, column = divmod(place, across)
        width, height = 1 / across, 1 / down
        inner = ax.inset_axes((column * width + 0.02, 1 - (row + 0.82) * height, 0.9 * width, 0.62 * height))
        values, observed = array(check.replicated)[:, which], float(check.observed[which])
        title = f"{check.names[which]}   p = {float(check.p_values[which]):.3f}"
        _draw(inner, values, observed, title, extreme=bool(extreme[which]))
    left_out = f", the {len(chosen)} most extreme of {len(check.names)}" if len(chosen) < len(check.names) else ""
    ax.set_title(f"{check.kind} predictive: replicates (grey) and the data (line){left_out}", fontsize=9, color=INK)
    return ax


def _draw(ax: Axes, values: np.ndarray, observed: float, title: str, *, extreme: bool) -> None:
    kinds = np.unique(values)
    if len(kinds) <= BINS and np.all(kinds % 1 == 0):
        edges = np.arange(kinds[0] - 0.5, kinds[-1] + 1.5).tolist()
    else:
        edges = np.linspace(values.min(), values.max() if len(kinds) > 1 else values.min() + 1, BINS + 1).tolist()
    ax.hist(values, bins=edges, color=MUTED)
    ax.axvline(observed, color=SECOND if extreme else INK, lw=2)
    ax.set_title(title, fontsize=8, color=SECOND if extreme else INK, pad=3)
    quiet(ax).tick_params(labelsize=7)
    ax.locator_params(axis="x", nbins=4)
    ax.spines["left"].set_visible(False)
    ax.set_yticks([])
