"""How often each class of a code is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppl_vae.plots.axes import ACCENT, INK, MUTED, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["code_bars"]


def code_bars(usage: Any, *, ax: Axes | None = None) -> Axes:
    """The usage of every class, of one latent as bars in falling order, of several as a picture, a row a latent.

    Args:
        usage: a ``CodeUsage``, of ``diagnostics.code_usage``.
        ax: where to draw.
    """
    latents, classes = usage.usage.shape
    perplexity = f"perplexity {float(usage.perplexity.mean()):.1f} of {classes}, {int(usage.dead.sum())} dead"
    if latents > 1:
        ax = axes_or_new(ax, size=(1.5 + 0.3 * classes, 1.0 + 0.25 * latents))
        ax.imshow(usage.usage.numpy(), cmap="Blues", vmin=0.0, aspect="auto")
        quiet(ax, xlabel="class", ylabel="latent")
    else:
        ax = axes_or_new(ax)
        ordered = usage.usage[0].sort(descending=True).values.numpy()
        ax.bar(range(classes), ordered, color=ACCENT)
        ax.axhline(1 / classes, color=MUTED, linewidth=1.0)
        quiet(ax, xlabel="class, by use", ylabel="share of the data")
    ax.set_title(perplexity, fontsize=9, color=INK)
    return ax
