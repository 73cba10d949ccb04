"""Differences to the best of several, with their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, SECOND, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["difference_bars"]


def difference_bars(difference: Any, error: Any, *, names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw differences to the best, of difference 0, each with two standard errors to either side.

    What lies more than two standard errors from the best is drawn in another colour.

    Args:
        difference: (M,) nats, the best first; at most 0.
        error: (M,) standard errors; nan where they are not known.
        names: of the M.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.

    Raises:
        ValueError: not as many errors or names as differences.
    """
    values, errors = (array(numbers).astype(float).reshape(-1) for numbers in (difference, error))
    if not len(values) == len(errors) == len(names):
        raise ValueError(
            f"difference_bars: as many errors and names as differences are required, got {len(values)} differences, "
            f"{len(errors)} errors, {len(names)} names"
        )
    ax = axes_or_new(ax)
    places = np.arange(len(values))[::-1]
    half = 2 * np.nan_to_num(errors)
    clear = np.abs(values) > half
    for part, color in ((~clear, ACCENT), (clear, SECOND)):
        ax.errorbar(values[part], places[part], xerr=half[part], fmt="o", color=color, lw=1.5, ms=5)
    ax.axvline(0.0, color=INK, lw=0.8, ls="--")
    ax.set_yticks(places, [str(name) for name in names])
    ax.set_ylim(-0.5, len(values) - 0.5)
    return quiet(ax, xlabel="difference to the best, with two standard errors (nats)")
