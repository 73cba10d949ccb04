"""The figures of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.recipes.base import Panel
    from ppl_vae.result import Fit

PLOTTED_ROWS = 2000


def figures(fit: Fit, dataset: Dataset, own: Mapping[str, Panel]) -> dict[str, Callable[[Path], None]]:
    """The figures that suit the data, by name in the run folder: functions that write a file to a path.

    Args:
        fit: the fitted pair.
        dataset: its data.
        own: figures of the recipe, in the place of samples from the prior.
    """
    panels = _panels(fit, dataset, own)
    single = {f"plots/{name}.png": partial(_save, draw) for name, draw in panels.items()}
    return {"plots/overview.png": partial(_save_overview, panels), **single}


def _panels(fit: Fit, dataset: Dataset, own: Mapping[str, Panel]) -> dict[str, Panel]:
    """Functions that draw into axes, by name, in reading order."""
    from ppl_vae.diagnostics.usage import discrete_sites

    shown = dataset.train if dataset.test is None or fit.takes("index") else dataset.test
    labels = dataset.train_labels if shown is dataset.train else dataset.test_labels
    panels: dict[str, Panel] = {}
    if len(fit.history):
        panels["elbo"] = lambda ax: _titled(fit.plot.history(ax=ax), "ELBO")
    panels.update(own)
    if _makes_images(fit, dataset):
        shape = dataset.image_shape
        if not own:
            title = "new samples" if fit.has_global_latents else "samples from the prior"
            panels["samples"] = lambda ax: _titled(fit.plot.samples(64, ax=ax, shape=shape), title)
        if not fit.counts_volume:  # a flow gives back what it was given
            panels["reconstructions"] = lambda ax: _titled(
                fit.plot.reconstructions(shown[:32], columns=8, ax=ax, shape=shape),
                "originals and reconstructions",
            )
    if _has_a_code(fit):
        codes, colors = shown[:PLOTTED_ROWS], None if labels is None else labels[:PLOTTED_ROWS]
        title = "latent space" if labels is None else "latent space by class"
        panels["latent"] = lambda ax: _titled(fit.plot.latent(codes, color=colors, ax=ax), title)
        if _has_marginals(fit, shown[:2]):
            panels["kl"] = lambda ax: _titled(fit.plot.kl(codes, ax=ax), "KL of each latent dimension")
    elif len(found := discrete_sites(fit.pair)) == 1:
        panels["use"] = lambda ax: fit.plot.codes(shown, site=next(iter(found)), ax=ax)
    return panels


def _makes_images(fit: Fit, dataset: Dataset) -> bool:
    drawn = set(fit.observed) - {"label"}  # which is observed beside x, and drawn with no x
    return dataset.image_shape is not None and len(drawn) == 1 and not fit.has_global_latents


def _has_a_code(fit: Fit) -> bool:
    """One continuous latent vector a datum."""
    sites = list(fit.latents.values())
    return len(sites) == 1 and sites[0].is_local and not sites[0].is_discrete and len(sites[0].event_shape) == 1


def _has_marginals(fit: Fit, few: Tensor) -> bool:
    """Is there a KL of each dimension? Not for a prior that is a mixture, nor for a guide that is a flow."""
    from ppl_vae.diagnostics import kl_per_dimension

    try:
        kl_per_dimension(fit, few, num_samples=2)
    except ValueError:
        return False
    return True


def _titled(ax: Axes, title: str) -> Axes:
    ax.set_title(title, fontsize=10)
    return ax


def _save(draw: Panel, path: Path) -> None:
    draw(None).figure.savefig(path)  # type: ignore[union-attr]


def _save_overview(panels: dict[str, Panel], path: Path) -> None:
    """All but the KL in one picture."""
    from matplotlib.figure import Figure

    shown = [draw for name, draw in panels.items() if name != "kl"]
    columns = 2 if len(shown) > 1 else 1
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), dpi=150, layout="constrained")
    for place, draw in enumerate(shown, 1):
        draw(figure.add_subplot(rows, columns, place))
    figure.savefig(path)
