"""k-hat of every datum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, SECOND, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["khat_points"]

LIMIT = 0.7


def khat_points(khat: Any, *, limit: float = LIMIT, ax: Axes | None = None) -> Axes:
    """Draw k-hat of every datum, sorted, with the limit above which an estimate is not to be believed.

    Args:
        khat: shape (N,), such as ``fit.log_evidence(x).khat``; infinite ones stand at the upper edge.
        limit: of k-hat; fewer draws allow less than 0.7 (``evidence.khat_limit``).
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    values = np.sort(array(khat).astype(float).reshape(-1))
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("khat_points: at least one k-hat is required, got none (it takes 25 draws a datum)")
    ax = axes_or_new(ax)
    finite = values[np.isfinite(values)]
    top = max(1.0, *finite) * 1.08 if len(finite) else 1.5
    share = 100 * (np.arange(len(values)) + 0.5) / len(values)
    good = values < limit
    drawn = np.minimum(values, top)
    for part, color in ((good, ACCENT), (~good, SECOND)):
        ax.scatter(share[part], drawn[part], color=color, s=10, lw=0)
    ax.axhline(limit, color=INK, lw=0.8, ls="--")
    ax.text(0.5, limit, f"{limit:.2g}", color=INK, fontsize=9, va="bottom")
    return quiet(ax, xlabel="data, from the least to the greatest k-hat (%)", ylabel="k-hat")
