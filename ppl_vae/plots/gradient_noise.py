"""Estimators of a gradient side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppl_vae.plots.axes import ACCENT, INK, SECOND, axes_or_new, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["gradient_noise"]


def gradient_noise(report: Any, *, group: str = "phi", ax: Axes | None = None) -> Axes:
    """The variance of each estimator, on a logarithmic scale; biased ones in vermilion, with their z.

    Args:
        report: of ``diagnostics.gradient_report``.
        group: "theta" or "phi".
        ax: where to draw.
    """
    found = {name: groups[group] for name, groups in report.found.items() if group in groups}
    if not found:
        raise ValueError(f"gradient_noise: the report has no group {group!r}")
    frame = report.to_dataframe().xs(group, level="group")
    ax = axes_or_new(ax, size=(7.0, 0.8 + 0.42 * len(found)))
    positive = [p.variance for p in found.values() if p.variance > 0]
    floor = min(positive, default=1.0) / 10
    for place, (name, p) in enumerate(found.items()):
        biased = bool(frame.loc[name, "biased"])
        ax.barh(place, max(p.variance, floor) - floor, left=floor, color=SECOND if biased else ACCENT, height=0.6)
        ax.text(max(p.variance, floor) * 1.3, place, _in_words(p, biased), va="center", fontsize=8, color=INK)
    ax.set_xscale("log")
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set_xlim(floor, max(positive, default=1.0) * 1e3)
    symbol = "φ" if group == "phi" else "θ"
    return quiet(ax, xlabel=f"variance of the gradient in {symbol}, {report.num_replicates} replicates")


def _in_words(p: Any, biased: bool) -> str:
    noise = "no noise, " if p.variance == 0 else ""
    how = f"z = {p.z:.0f}" if p.z < 1e6 else "for certain"
    bias = f"biased ({how})" if biased else "no bias seen"
    return f"{noise}{bias}, {1e3 * p.seconds:.2g} ms"
