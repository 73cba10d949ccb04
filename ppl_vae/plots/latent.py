"""The latent space, in two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import (
    ACCENT,
    CLASSES,
    INK,
    MUTED,
    array,
    axes_or_new,
    outside_note,
    quiet,
    robust_limits,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["latent"]

LONGEST = 3  # letters of a name of a class that is written among the points


def latent(codes: Any, *, color: Any = None, ax: Axes | None = None) -> Axes:
    """Draw codes as points: two dimensions as they are, more by their first two principal components.

    Args:
        codes: shape (N, L), such as ``fit.encode(x)``.
        color: a class (whole numbers or words, named at its centre if the name is short, else beside; "" for none,
            drawn in grey) or a number per code, shape (N,).
        ax: where to draw; by default a new figure.

    Returns:
        the axes; their labels say what they are.
    """
    codes = array(codes).astype(float)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"latent: codes of shape (N, L) are required, got {codes.shape}")
    ax = axes_or_new(ax, size=(5.6, 5.0))
    labels = None if color is None else array(color).reshape(-1)
    if labels is not None and len(labels) != len(codes):
        raise ValueError(f"latent: one color for each of the {len(codes)} codes is required, got {len(labels)}")
    classes = labels is not None and _are_classes(labels)
    points, xlabel, ylabel = _plane(codes) if codes.shape[1] > 1 else _line(codes, labels if classes else None)
    style: dict[str, Any] = {"s": float(np.clip(6000 / len(codes), 5, 30)), "lw": 0, "alpha": 0.85}
    if labels is None:
        ax.scatter(*points.T, color=ACCENT, **style)
    elif classes:
        _draw_classes(ax, points, labels, style)
    else:
        dots = ax.scatter(points[:, 0], points[:, 1], c=labels, cmap="viridis", **style)
        ax.figure.colorbar(dots, ax=ax, shrink=0.8).outline.set_visible(False)
    _frame(ax, points, flat=codes.shape[1] == 1)
    return quiet(ax, xlabel=xlabel, ylabel=ylabel)


def _frame(ax: Axes, points: np.ndarray, *, flat: bool) -> None:
    """Let the frame hold all but points far out, which are counted; one unit is as long both ways."""
    limits = [robust_limits(column)[:2] for column in points.T]
    inside = [(low <= column) & (column <= high) for column, (low, high) in zip(points.T, limits, strict=True)]
    beyond = ~inside[0] if flat else ~(inside[0] & inside[1])
    outside_note(ax, int(beyond.sum()))
    if flat:
        ax.set_yticks([])
        ax.set_xlim(_around(*limits[0], limits[0][1] - limits[0][0]))
    elif beyond.any():
        size = max(high - low for low, high in limits)
        ax.set_xlim(_around(*limits[0], size))
        ax.set_ylim(_around(*limits[1], size))
        ax.set_aspect("equal", "box")
    else:
        ax.set_aspect("equal", "datalim")


def _around(low: float, high: float, size: float) -> tuple[float, float]:
    """Limits a little wider than ``size``, with the range from ``low`` to ``high`` in their middle."""
    return (low + high) / 2 - 0.55 * size, (low + high) / 2 + 0.55 * size


def _line(codes: np.ndarray, classes: np.ndarray | None) -> tuple[np.ndarray, str, str]:
    """One dimension: a lane for each class, in which the points are scattered so that they can be seen."""
    lane = np.zeros(len(codes)) if classes is None else np.unique(classes, return_inverse=True)[1]
    scatter = np.random.default_rng(0).uniform(-0.35, 0.35, len(codes))
    return np.column_stack([codes[:, 0], lane + scatter]), "z[0]", ""


def _plane(codes: np.ndarray) -> tuple[np.ndarray, str, str]:
    """The codes in two dimensions, and what these are."""
    if codes.shape[1] == 2 or len(codes) < 2:  # one point has no principal components
        return codes[:, :2], "z[0]", "z[1]"
    inside = np.ones(len(codes), bool)
    for column in codes.T:
        low, high, _ = robust_limits(column)
        inside &= (low <= column) & (column <= high)
    rest = codes[inside] if inside.sum() > 1 else codes  # a code far out would be a component of its own
    centre = rest.mean(0)
    _, scale, axes = np.linalg.svd(rest - centre, full_matrices=False)
    share = 100 * scale**2 / max(float((scale**2).sum()), 1e-300)
    names = [f"principal component {i + 1} of {codes.shape[1]} ({share[i]:.0f} % of the variance)" for i in (0, 1)]
    return (codes - centre) @ axes[:2].T, names[0], names[1]


def _are_classes(labels: np.ndarray) -> bool:
    if labels.dtype.kind != "f":
        return True
    return len(np.unique(labels)) <= len(CLASSES) and bool(np.all(labels % 1 == 0))


def _draw_classes(ax: Axes, points: np.ndarray, labels: np.ndarray, style: dict[str, Any]) -> None:
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    names = [name for name in np.unique(labels) if str(name)]
    if len(without := points[~np.isin(labels, names)]):
        ax.scatter(*without.T, color=MUTED, **style)
    long = any(len(str(name)) > LONGEST for name in names)
    for k, name in enumerate(names):
        members = points[labels == name]
        text = str(int(name)) if labels.dtype.kind == "f" else str(name)
        ax.scatter(*members.T, color=CLASSES[k % len(CLASSES)], label=text, **style)
        if not long:
            x, y = np.median(members, axis=0)
            word = ax.text(x, y, text, ha="center", va="center", color=INK, weight="bold", path_effects=halo, zorder=5)
            word.set_clip_on(True)  # one far out would push the axes together
    if long:  # words would lie on each other
        ax.legend(frameon=False, fontsize=8, markerscale=1.5, handletextpad=0.1, borderaxespad=0.2)
