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
    heights = {label: padded(values) for label, values in curves.items()}
    inside = [label for label in curves if label not in outside]
    for label in inside:
        ax.plot(whole, heights[label], color=ACCENT, lw=1.2, alpha=0.8)
    for label in outside:
        ax.plot(whole, heights[label], color=SECOND, lw=1.8)
    near = 0.3 * float(max(np.abs(padded(limit)).max() for limit in (*band, *curves.values())))
    worst = sorted(outside, key=lambda label: -float(np.abs(heights[label]).max()))[:MOST_NAMED]
    _name(ax, whole, {label: heights[label] for label in worst}, near, SECOND)
    if len(curves) <= MOST_NAMED:
        _name(ax, whole, {label: heights[label] for label in inside}, near, ACCENT)
    ax.set_xlim(0, 1)
    ax.margins(y=0.12)
    words = f"{len(outside)} of {len(curves)} outside the band"
    ax.text(0.99, 0.98, words, transform=ax.transAxes, ha="right", va="top", color=INK, fontsize=9)
    if regions:
        return quiet(ax, xlabel="level of the region", ylabel="share that holds the truth − level")
    return quiet(ax, xlabel="rank of the truth among the draws, from 0 to 1", ylabel="share of lower ranks − uniform")


def _name(ax: Axes, x: np.ndarray, curves: Mapping[str, np.ndarray], near: float, color: str) -> None:
    """Write the names of curves where these are farthest from 0; those that would lie on each other, together."""
    places: list[tuple[float, float, list[str]]] = []
    for label, height in curves.items():
        at = int(np.abs(height).argmax())
        here = float(x[at]), float(height[at])
        for left, top, labels in places:
            if abs(left - here[0]) < 0.25 and abs(top - here[1]) < near:
                labels.append(label)
                break
        else:
            places.append((*here, [label]))
    for left, top, labels in places:
        side = "left" if left < 0.25 else "right" if left > 0.75 else "center"
        above = top >= 0
        ax.annotate(
            ", ".join(sorted(labels)),
            (left, top),
            xytext=(0, 3 if above else -3),
            textcoords="offset points",
            ha=side,
            va="bottom" if above else "top",
            color=color,
            fontsize=8,
        )
