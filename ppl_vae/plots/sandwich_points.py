"""log p(x) from below and from above, datum by datum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, SECOND, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["sandwich_points"]


def sandwich_points(sandwich: Any, *, ax: Axes | None = None) -> Axes:
    """Draw both sides of every datum as they lie about their middle, with two standard errors.

    Args:
        sandwich: a ``Sandwich``, of ``evidence.sandwich``.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    below, above = (side.value.reshape(-1).numpy() for side in (sandwich.lower, sandwich.upper))
    errors = [side.standard_error.reshape(-1).numpy() for side in (sandwich.lower, sandwich.upper)]
    middle, gap = (below + above) / 2, above - below
    ax = axes_or_new(ax)
    name = "upper bound" if sandwich.upper.bound == "upper" else "from above (an estimate)"
    sides = ((below, errors[0], ACCENT, "lower bound"), (above, errors[1], SECOND, name))
    for value, error, color, label in sides:
        bars = 2 * np.nan_to_num(error)
        ax.errorbar(middle, value - middle, yerr=bars, color=color, fmt="o", ms=3, lw=0.6, alpha=0.7, label=label)
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_title(
        f"median gap {np.median(gap):.3f} nats" if len(gap) > 1 else f"gap {gap[0]:.3f} nats", fontsize=9, color=INK
    )
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return quiet(ax, xlabel="log p(x) (nats)", ylabel="log p(x) - middle of both sides (nats)")
