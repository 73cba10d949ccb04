"""The latent space, in two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, CLASSES, INK, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["latent"]


def latent(codes: Any, *, color: Any = None, ax: Axes | None = None) -> Axes:
    """Draw codes as points: two dimensions as they are, more by their first two principal components.

    Args:
        codes: shape (N, L), such as ``fit.encode(x)``.
        color: a class (whole numbers or words, named at its centre as well) or a number per code, shape (N,).
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
    if codes.shape[1] == 1:
        ax.set_yticks([])
    else:
        ax.set_aspect("equal", "datalim")
    return quiet(ax, xlabel=xlabel, ylabel=ylabel)


def _line(codes: np.ndarray, classes: np.ndarray | None) -> tuple[np.ndarray, str, str]:
    """One dimension: a lane for each class, in which the points are scattered so that they can be seen."""
    lane = np.zeros(len(codes)) if classes is None else np.unique(classes, return_inverse=True)[1]
    scatter = np.random.default_rng(0).uniform(-0.35, 0.35, len(codes))
    return np.column_stack([codes[:, 0], lane + scatter]), "z[0]", ""


def _plane(codes: np.ndarray) -> tuple[np.ndarray, str, str]:
    """The codes in two dimensions, and what these are."""
    if codes.shape[1] == 2 or len(codes) < 2:  # one point has no principal components
        return codes[:, :2], "z[0]", "z[1]"
    centred = codes - codes.mean(0)
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    share = 100 * scale**2 / max(float((scale**2).sum()), 1e-300)
    names = [f"principal component {i + 1} of {codes.shape[1]} ({share[i]:.0f} % of the variance)" for i in (0, 1)]
    return centred @ axes[:2].T, names[0], names[1]


def _are_classes(labels: np.ndarray) -> bool:
    if labels.dtype.kind != "f":
        return True
    return len(np.unique(labels)) <= len(CLASSES) and bool(np.all(labels % 1 == 0))


def _draw_classes(ax: Axes, points: np.ndarray, labels: np.ndarray, style: dict[str, Any]) -> None:
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for k, name in enumerate(np.unique(labels)):
        members = points[labels == name]
        ax.scatter(*members.T, color=CLASSES[k % len(CLASSES)], label=str(name), **style)
        text = str(int(name)) if labels.dtype.kind == "f" else str(name)
        x, y = np.median(members, axis=0)
        ax.text(x, y, text, ha="center", va="center", color=INK, weight="bold", path_effects=halo, zorder=5)
