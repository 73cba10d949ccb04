"""What each latent dimension tells of its datum, and what it costs besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import ACCENT, INK, SECOND, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["surgery_bars"]

NAMED = 20  # bars, at most, that bear their names


def surgery_bars(surgery: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the KL of each latent dimension as a bar of two parts, the largest first; the verdict stands above.

    Below is what the dimension tells of which datum it is of, on top what its marginal is off the prior. Where single
    dimensions have no law of their own, there is one bar for the code as a whole.

    Args:
        surgery: a ``Surgery``, of ``diagnostics.surgery``.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    frame = surgery.dimensions().sort_values("kl", ascending=False, kind="stable")
    labels, told, off = (
        [str(label) for label in frame.index],
        np.maximum(frame["mutual_information"].to_numpy(dtype=float), 0.0),
        np.maximum(frame["marginal_kl"].to_numpy(dtype=float), 0.0),
    )
    if not labels:
        labels, told, off = ["all"], np.array([surgery.mutual_information]), np.array([surgery.marginal_kl])
    ax = axes_or_new(ax, size=(max(4.2, min(10.0, 1.6 + 0.5 * len(labels))), 3.4))
    places = np.arange(len(labels))
    ax.bar(places, told, color=ACCENT, width=0.7, label="tells of its datum")
    ax.bar(places, off, bottom=told, color=SECOND, width=0.7, label="off the prior")
    if len(labels) <= NAMED:
        ax.set_xticks(places, labels, rotation=45 if max(map(len, labels)) > 4 and len(labels) > 8 else 0)
    ax.set_ylim(0, max(0.1, 1.08 * float((told + off).max())))  # an idle code is to look idle
    words = (
        f"the code tells {surgery.mutual_information:.2f} of {surgery.ceiling:.2f} nats, and is "
        f"{surgery.marginal_kl:.2f} off the prior:\n{surgery.verdict}"
    )
    ax.set_title(words, fontsize=9, color=INK)
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return quiet(ax, xlabel="latent dimension", ylabel="KL (nats per datum)")
