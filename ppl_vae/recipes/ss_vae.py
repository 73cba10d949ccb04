"""A VAE with a label that is known for some rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppl_vae.recipes.base import Facts, Panel, Recipe, Settings, Training
from ppl_vae.recipes.networks import flattening, likelihood_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit

AUXILIARY = 10.0
"""The weight of the classification term of a labeled row, as if it were so many rows for the classifier."""
STYLES = 8  # rows of the picture of all classes


@dataclass(frozen=True)
class LabelSettings(Settings):
    """The sizes of a pair with a label and a style.

    Args:
        latent_dim: L, the size of the style z.
        hidden: the widths of the hidden layers of each network.
        num_labels: of so many training rows the label is given, as many of each class as of any other.
    """

    num_labels: int = 100


def build(facts: Facts, settings: LabelSettings) -> tuple[Any, Any]:
    """The M2 model and its guide, with the label summed out and the auxiliary classification term."""
    from ppl_vae.guides import SemiSupervisedGuide
    from ppl_vae.models import SemiSupervisedVAE
    from ppl_vae.nn import MLP

    classes, latent, hidden = facts.num_classes, settings.latent_dim, settings.hidden
    if classes is None or classes < 2:
        raise ValueError(f"ss-vae: data with labels of two classes or more are required, got {classes or 'no labels'}")
    if settings.num_labels < classes:
        raise ValueError(f"ss-vae: num_labels must be at least {classes}, one a class, got {settings.num_labels}")
    decoder = MLP(classes + latent, facts.event_shape, hidden=tuple(reversed(hidden)))
    classifier = flattening(facts, MLP(facts.size, classes, hidden=hidden))
    encoder = MLP(facts.size + classes, 2 * latent, hidden=hidden)
    model = SemiSupervisedVAE(decoder, num_classes=classes, latent_dim=latent, likelihood=likelihood_of(facts))
    guide = SemiSupervisedGuide(classifier, encoder, num_classes=classes, latent_dim=latent, auxiliary=AUXILIARY)
    return model, guide


def rows(dataset: Dataset, settings: LabelSettings, seed: int) -> dict[str, Tensor]:
    """The training rows, with the labels of some of them."""
    assert dataset.train_labels is not None  # or there would be no pair
    return {"x": dataset.train, "y": keep_labels(dataset.train_labels, settings.num_labels, seed=seed)}


def keep_labels(labels: Tensor, num_labels: int, *, seed: int) -> Tensor:
    """The labels (N,) with -1 for all but ``num_labels`` rows, drawn by seed, the classes in turn.

    >>> import torch
    >>> kept = keep_labels(torch.tensor([0, 0, 0, 0, 1, 1, 2, -1]), 5, seed=0)
    >>> [int((kept == label).sum()) for label in (-1, 0, 1, 2)]
    [3, 2, 2, 1]
    """
    import torch

    from ppl_vae._random import generator

    order = torch.randperm(len(labels), generator=generator(seed, "labels"))
    order = order[labels[order] >= 0]  # a row may have none
    same = labels[order].unsqueeze(1) == labels[order].unique()
    place_in_class = same.cumsum(0)[same]
    chosen = order[place_in_class.argsort(stable=True)[:num_labels]]
    return torch.full_like(labels, -1).index_copy(0, chosen, labels[chosen])


def note(settings: LabelSettings) -> str:
    """How many labels were seen."""
    return (
        f"the labels of {settings.num_labels} training rows are given, chosen by the seed with the classes in turn; "
        "the table is of rows without labels"
    )


def measure(fit: Fit, rows: Tensor, labels: Tensor | None) -> Mapping[str, float]:
    """The share of rows whose most probable class is their label."""
    if labels is None or not bool((labels >= 0).any()):
        return {}
    found = fit.codes(rows, "y")[:, 0]
    right = (found == labels)[labels >= 0]
    return {"accuracy of q(y|x)": float(right.double().mean())}


def panels(fit: Fit, dataset: Dataset) -> Mapping[str, Panel]:
    """Every class, a column each, in some styles, a row each."""
    if dataset.image_shape is None:
        return {}

    def classes(ax: Axes | None) -> Axes:
        import torch

        from ppl_vae.plots import images

        count = fit.latents["y"].num_values or 1
        styles = fit.simulate(STYLES, seed=0)["z"].repeat_interleave(count, 0)
        found = fit.decode({"y": torch.arange(count).repeat(STYLES), "z": styles})
        ax = images(found, shape=dataset.image_shape, columns=count, ax=ax)
        ax.set_title("samples: a class a column, a style a row", fontsize=10)
        return ax

    return {"classes": classes}


RECIPE = Recipe(
    name="ss-vae",
    description="a label and a style of 8 dimensions; the labels of 100 training rows are given, the others summed out",
    data="digits",
    build=build,
    settings=LabelSettings(),
    training=Training(epochs=120, lr=2e-3, weight_decay=1e-4),
    rows=rows,
    note=note,
    measure=measure,
    panels=panels,
    label_site="y",
)
