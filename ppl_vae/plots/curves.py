"""The ELBO along a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_vae.plots.axes import ACCENT, SECOND, axes_or_new, quiet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["history"]


def history(frame: pd.DataFrame, *, column: str = "elbo", ax: Axes | None = None) -> Axes:
    """Draw a column of a fit's history, in training and in validation.

    The first tenth of the fit may fall below the frame: it starts hundreds of nats down, and would flatten
    the rest.

    Args:
        frame: one row a check, as ``fit.history``; along its column "epoch" or "step", or else its index.
        column: what to draw, nats per datum; ``val_`` + column is drawn with it where there is one.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.

    Raises:
        KeyError: if there is no such column.
    """
    if column not in frame:
        raise KeyError(f"history: no column {column!r}; there are {', '.join(map(str, frame.columns))}")
    ax = axes_or_new(ax)
    along = next((name for name in ("epoch", "step") if name in frame), None)
    where = frame[along] if along else frame.index.to_series()
    curves = ((column, "train", ACCENT, "-"), (f"val_{column}", "validation", SECOND, "--"))
    for name, label, color, style in curves:
        if name in frame and frame[name].notna().any():
            known = frame[name].notna()
            marker = "o" if known.sum() < 3 else None
            ax.plot(
                where[known],
                frame[name][known],
                color=color,
                ls=style,
                label=label,
                lw=1.6,
                marker=marker,
                ms=4,
            )
    _frame_the_late_part(ax, [frame[n] for n in (column, f"val_{column}") if n in frame])
    if len(ax.lines) > 1:
        ax.legend(frameon=False, loc="lower right", fontsize=9)
    words = {"elbo": "ELBO", "kl": "KL"}.get(column, column)
    return quiet(ax, xlabel=along or str(frame.index.name or "step"), ylabel=f"{words} (nats per datum)")


def _frame_the_late_part(ax: Axes, curves: list[pd.Series]) -> None:
    """Let the frame hold nine tenths of the fit and the whole of what rises above."""
    late = [curve.iloc[len(curve) // 10 :].dropna() for curve in curves]
    low = min((float(c.min()) for c in late if len(c)), default=0.0)
    high = max((float(c.max()) for c in curves if c.notna().any()), default=1.0)
    margin = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
