"""Ranks of the truth among posterior draws: how far their distribution function is from that of uniform ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, MUTED, SECOND, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["calibration_curves"]

MOST_NAMED = 6
"""Curves that are called by their names, at most."""


def calibration_curves(
    points: Any,
    curves: Mapping[str, Any],
    band: tuple[Any, Any],
    *,
    outside: Collection[str] = (),
    regions: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw distribution functions minus the diagonal, in the band that uniform ranks keep to; those outside are red.

    Args:
        points: (K,), from 0 to 1.
        curves: by label, (K,) values of a distribution function at the points.
        band: lower and upper limit at the points, (K,) each.
        outside: labels of the curves that leave the band.
        regions: the curves are expected coverages, and points are levels.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    if not curves:
        raise ValueError("calibration_curves: at least one curve is required, got none")
    ax = axes_or_new(ax, size=(5.6, 4.0))
    z = array(points).astype(float)
    whole = np.concatenate([[0.0], z, [1.0]])

    def padded(values: Any) -> np.ndarray:
        return np.concatenate([[0.0], array(values).astype(float) - z, [0.0]])

    ax.fill_between(whole, padded(band[0]), padded(band[1]), color=MUTED, alpha=0.45, lw=0)
    ax.axhline(0, color=INK, lw=0.8)
    inside = [label for label in curves if label not in outside]
    for label in inside:
        ax.plot(whole, padded(curves[label]), color=ACCENT, lw=1.2, alpha=0.8)
    for label in outside:
        ax.plot(whole, padded(curves[label]), color=SECOND, lw=1.8)
    named = sorted(outside, key=lambda label: -float(np.abs(padded(curves[label])).max()))[:MOST_NAMED]
    for label in named if outside or len(inside) > MOST_NAMED else inside:
        at = int(np.abs(padded(curves[label])).argmax())
        height = padded(curves[label])[at]
        color = SECOND if label in outside else ACCENT
        place = (0, 3 if height >= 0 else -3)
        ax.annotate(label, (whole[at], height), place, textcoords="offset points", color=color, fontsize=8,
                    ha="center", va="bottom" if height >= 0 else "top")  # fmt: skip
    ax.set_xlim(0, 1)
    ax.margins(y=0.12)
    words = f"{len(outside)} of {len(curves)} outside the band"
    ax.text(0.99, 0.98, words, transform=ax.transAxes, ha="right", va="top", color=INK, fontsize=9)
    if regions:
        return quiet(ax, xlabel="level of the region", ylabel="share that holds the truth − level")
    return quiet(ax, xlabel="rank of the truth among the draws, from 0 to 1", ylabel="share of lower ranks − uniform")
