"""What each latent dimension costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, MUTED, array, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["kl_bars"]


def kl_bars(kl: Any, *, active: Any = None, ax: Axes | None = None) -> Axes:
    """Draw the KL of each latent dimension as a bar, the largest first; those that are not active in grey.

    Args:
        kl: shape (L,), nats per datum, such as a site of :func:`ppl_vae.diagnostics.kl_per_dimension`.
        active: shape (L,), bool; by default those above 0.01 nats.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    kl = array(kl).astype(float).reshape(-1)
    flags = kl > 0.01 if active is None else array(active).astype(bool).reshape(-1)
    if flags.shape != kl.shape:
        raise ValueError(f"kl_bars: active must have one flag for each of {len(kl)} dimensions, got {len(flags)}")
    ax = axes_or_new(ax, size=(max(3.0, min(10.0, 1.2 + 0.5 * len(kl))), 3.2))
    order = np.argsort(-kl, kind="stable")
    ax.bar(range(len(kl)), kl[order], color=[ACCENT if flags[k] else MUTED for k in order], width=0.7)
    if len(kl) <= 40:
        ax.set_xticks(range(len(kl)), [str(k) for k in order])
    words = f"{int(flags.sum())} of {len(kl)} active"
    ax.text(0.99, 0.97, words, transform=ax.transAxes, ha="right", va="top", color=INK, fontsize=9)
    return quiet(ax, xlabel="latent dimension", ylabel="KL (nats per datum)")
