"""Where the ELBO loses against log p(x): by the family, by amortization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, SECOND, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gap_bars"]


def gap_bars(gap: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the gap of every datum as a bar of two parts, the largest first, with their means in the legend.

    Args:
        gap: an ``InferenceGap``, of ``evidence.inference_gap``.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    order = np.argsort(-gap.gap.numpy(), kind="stable")
    parts = (np.maximum(getattr(gap, name).numpy()[order], 0.0) for name in ("approximation", "amortization"))
    family, network = parts
    ax = axes_or_new(ax)
    means, places = gap.mean(), np.arange(len(order))
    width = 0.8 if len(order) <= 40 else 1.0
    ax.bar(places, family, color=ACCENT, width=width, label=f"family: {means['approximation']:.2f} nats")
    label = f"amortization: {means['amortization']:.2f} nats"
    ax.bar(places, network, bottom=family, color=SECOND, width=width, label=label)
    ax.set_xlim(-0.7, len(order) - 0.3)
    ax.set_xticks([])
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    return quiet(ax, xlabel=f"{len(order)} data, by their gap", ylabel="log p(x) - ELBO (nats)")
