"""Posterior intervals by several ways beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, MUTED, SECOND, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["reference_intervals"]

MOST_SHOWN = 25
SPACING = 0.24


def reference_intervals(reference: Any, *, ax: Axes | None = None) -> Axes:
    """Draw intervals from 5 to 95 % with their medians: by NUTS, by the guide, by its weighted draws.

    All are in sds by NUTS, from its mean on, so that every number has the same scale. The numbers that are farthest
    away stand on top; of many, the 25 farthest are drawn. Numbers that are off have red names.

    Args:
        reference: a ``Reference``, of ``diagnostics.reference``.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    varies = array(reference.nuts.sd) > 0
    shown = [place for place in reference.guide.farthest() if varies[place]][:MOST_SHOWN]
    off = array(reference.guide.off)
    ways = [("NUTS", reference.nuts, INK), ("guide", reference.guide.moments, SECOND)]
    if reference.weighted is not None:
        ways.append(("weighted", reference.weighted.moments, ACCENT))
    ax = axes_or_new(ax, size=(5.6, max(2.2, 1.2 + 0.42 * len(shown))))
    mean, sd = (array(part)[shown] for part in (reference.nuts.mean, reference.nuts.sd))
    rows = np.arange(len(shown))[::-1].astype(float)
    for number, (label, moments, color) in enumerate(ways):
        low, middle, high = (array(moments.quantiles)[:, shown] - mean) / sd
        at = rows + SPACING * ((len(ways) - 1) / 2 - number)
        ax.hlines(at, low, high, color=color, lw=2)
        ax.plot(middle, at, "o", color=color, ms=4, label=label)
    ax.axvline(0, color=MUTED, lw=0.8, zorder=0)
    ax.set_yticks(rows, [reference.names[place] for place in shown])
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=len(ways), loc="lower right", bbox_to_anchor=(1, 1))
    left_out = int(varies.sum()) - len(shown)
    xlabel = "from the mean by NUTS, in its sds (5 to 95 %)" + (f"; {left_out} more" if left_out else "")
    ax = quiet(ax, xlabel=xlabel)
    for text, place in zip(ax.get_yticklabels(), shown, strict=True):
        text.set_color(SECOND if off[place] else INK)
    return ax
