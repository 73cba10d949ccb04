"""The look that all figures share: axes without pyplot, quiet frames, colours all can tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ACCENT",
    "CLASSES",
    "INK",
    "MUTED",
    "SECOND",
    "array",
    "axes_or_new",
    "outside_note",
    "quiet",
    "robust_limits",
]

ACCENT, SECOND = "#0072B2", "#D55E00"
"""Blue and vermilion of Masataka Okabe and Kei Ito: "Color Universal Design", 2008."""

INK, MUTED = "#333333", "#BBBBBB"

CLASSES = (
    "#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#AA4499", "#44AA99", "#882255", "#999933",
    "#777777",
)  # fmt: skip
"""Ten colours for classes, by Paul Tol: "Colour Schemes", 2021 ("muted")."""


def axes_or_new(ax: Axes | None, *, size: tuple[float, float] = (6.0, 3.8)) -> Axes:
    """Return ``ax``, or the axes of a new figure of ``size`` inches that pyplot knows nothing of."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=150, layout="constrained").add_subplot()


def quiet(ax: Axes, *, xlabel: str = "", ylabel: str = "") -> Axes:
    """Leave two thin spines and faint horizontal lines, and name the axes."""
    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.tick_params(color=MUTED, labelcolor=INK, labelsize=9)
    ax.set_xlabel(xlabel, color=INK)
    ax.set_ylabel(ylabel, color=INK)
    return ax


def robust_limits(values: np.ndarray) -> tuple[float, float, int]:
    """The least and the greatest value but for a few far out, and how many those are.

    Far out is what lies beyond the range from the tenth to the 90th percentile by one and a half of that range: of a
    normal distribution, what is five standard deviations from the mean.
    """
    low, high = np.quantile(values, [0.1, 0.9])
    reach = 1.5 * (high - low)
    if reach == 0:  # nearly all values are one
        low, high = float(values.min()), float(values.max())
        return (low, high, 0) if high > low else (low - 0.5, high + 0.5, 0)
    inside = values[(low - reach <= values) & (values <= high + reach)]
    return float(inside.min()), float(inside.max()), len(values) - len(inside)


def outside_note(ax: Axes, count: int) -> None:
    """Say how many values lie outside the frame, if any."""
    if count:
        words = f"{count} outside"
        ax.text(0.99, 0.98, words, transform=ax.transAxes, ha="right", va="top", color=SECOND, fontsize=7)


def array(values: Any) -> np.ndarray:
    """A tensor, array or list as an array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
