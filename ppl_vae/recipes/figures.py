"""The figures of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.recipes.base import Panel
    from ppl_vae.result import Fit

PLOTTED_ROWS = 2000


@dataclass(frozen=True)
class Judged:
    """log p(x) of the rows that were judged last, nats, and what they are called."""

    log_p: Tensor
    names: Sequence[Any]


def figures(
    fit: Fit, dataset: Dataset, own: Mapping[str, Panel], *, judged: Judged | None = None
) -> dict[str, Callable[[Path], None]]:
    """The figures that suit the data, by name in the run folder: functions that write a file to a path.

    Args:
        fit: the fitted pair.
        dataset: its data.
        own: figures of the recipe, in the place of samples from the prior.
        judged: log p(x) by row, drawn of tables.
    """
    panels = _panels(fit, dataset, own) | _of_table(fit, dataset, judged)
    single = {f"plots/{name}.png": partial(_save, draw) for name, draw in panels.items()}
    return {"plots/overview.png": partial(_save_overview, panels), **single}


def _panels(fit: Fit, dataset: Dataset, own: Mapping[str, Panel]) -> dict[str, Panel]:
    """Functions that draw into axes, by name, in reading order."""
    from ppl_vae.diagnostics.usage import discrete_sites

    shown, labels = _shown(fit, dataset)
    panels: dict[str, Panel] = {}
    if len(fit.history):
        panels["elbo"] = _titled("ELBO", fit.plot.history)
    panels.update(own)
    if _makes_images(fit, dataset):
        shape = dataset.image_shape
        if not own:
            title = "new samples" if fit.has_global_latents else "samples from the prior"
            panels["samples"] = _titled(title, fit.plot.samples, 64, shape=shape)
        if not fit.counts_volume:  # a flow gives back what it was given
            panels["reconstructions"] = _titled(
                "originals and reconstructions", fit.plot.reconstructions, shown[:32], columns=8, shape=shape
            )
    if (site := _code(fit)) is not None:
        few = shown[:PLOTTED_ROWS]
        if "clusters" not in own or dataset.image_shape is not None or labels is not None:
            title = "latent space" if labels is None else "latent space by class"
            colors = None if labels is None else class_names(labels[:PLOTTED_ROWS], dataset.label_names)
            panels["latent"] = _titled(title, latent_space, fit, few, site, colors)
        if len(fit.latents) == 1 and _has_marginals(fit, few[:2]):
            panels["kl"] = _titled("KL of each latent dimension", fit.plot.kl, few)
    elif len(found := discrete_sites(fit.pair)) == 1:
        panels["use"] = partial(_drawn, fit.plot.codes, (shown,), {"site": next(iter(found))})
    return panels


def _shown(fit: Fit, dataset: Dataset) -> tuple[Tensor, Tensor | None]:
    """The rows that are drawn, and their labels."""
    if dataset.test is None or fit.takes("index"):
        return dataset.train, dataset.train_labels
    return dataset.test, dataset.test_labels


def class_names(labels: Tensor, names: Sequence[str] | None) -> list[Any]:
    """Labels by name, or by number; "" for a row without one."""
    return ["" if c < 0 else names[c] if names else str(c) for c in labels.tolist()]


def latent_space(fit: Fit, rows: Tensor, site: str, colors: Any, ax: Axes | None = None) -> Axes:
    """The posterior means of a site as points; of a flow that draws its z, one draw each."""
    from ppl_vae.plots import latent

    found = fit.encode(rows, sample=fit.counts_volume and not fit.is_exact)
    return latent(found[site] if isinstance(found, dict) else found, color=colors, ax=ax)


def _of_table(fit: Fit, dataset: Dataset, judged: Judged | None) -> dict[str, Panel]:
    """What is drawn of rows that are no images: columns beside draws, and log p(x) by row."""
    if dataset.image_shape is not None or dataset.train.dim() != 2:
        return {}
    from ppl_vae.plots import columns, log_p_points

    panels: dict[str, Panel] = {}
    if "x" in fit.observed and tuple(fit.observed["x"].event_shape) == dataset.event_shape:
        rows = dataset.train[:PLOTTED_ROWS]

        def beside(ax: Axes | None) -> Axes:
            found = fit.sample(PLOTTED_ROWS)
            draws = found["x"] if isinstance(found, dict) else found
            return columns(rows, draws, names=dataset.feature_names, ax=ax)

        panels["columns"] = beside
    if judged is not None and judged.log_p.dim() and len(judged.log_p) > 1:
        panels["log_p"] = _titled("log p(x) by row", log_p_points, judged.log_p, names=judged.names)
    return panels


def _makes_images(fit: Fit, dataset: Dataset) -> bool:
    drawn = set(fit.observed) - {"label"}  # which is observed beside x, and drawn with no x
    return dataset.image_shape is not None and len(drawn) == 1 and not fit.has_global_latents


def _code(fit: Fit) -> str | None:
    """The one continuous latent vector of a datum, beside which there may be classes; None where there is none."""
    sites = [(name, site) for name, site in fit.latents.items() if not (site.is_discrete and site.is_local)]
    if len(sites) != 1 or not sites[0][1].is_local or len(sites[0][1].event_shape) != 1:
        return None
    return sites[0][0]


def _has_marginals(fit: Fit, few: Tensor) -> bool:
    """Is there a KL of each dimension? Not for a prior that is a mixture, nor for a guide that is a flow."""
    from ppl_vae.diagnostics import kl_per_dimension

    try:
        kl_per_dimension(fit, few, num_samples=2)
    except ValueError:
        return False
    return True


def _titled(title: str, draw: Callable[..., Axes], *args: Any, **options: Any) -> Panel:
    """A panel under a title. All of it is bound now: a lambda would read its variables when it is drawn."""
    return partial(_drawn, draw, args, options, title=title)


def _drawn(
    draw: Callable[..., Axes], args: Sequence[Any], options: Mapping[str, Any], ax: Axes | None, *, title: str = ""
) -> Axes:
    ax = draw(*args, ax=ax, **options)
    if title:
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
