"""The look that all figures share: axes without pyplot, quiet frames, colours all can tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ACCENT", "CLASSES", "INK", "MUTED", "SECOND", "array", "axes_or_new", "quiet"]

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


def array(values: Any) -> np.ndarray:
    """A tensor, array or list as an array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
