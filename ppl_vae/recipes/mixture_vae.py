"""A VAE whose latent space has clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ppl_vae.recipes.base import Facts, Panel, Recipe, Settings, Training
from ppl_vae.recipes.networks import flattening, likelihood_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit

PER_COMPONENT = 8  # samples of each component in the picture


@dataclass(frozen=True)
class MixtureSettings(Settings):
    """The sizes of a pair with clusters.

    Args:
        latent_dim: L, the size of z.
        hidden: the widths of the hidden layers of each network.
        num_components: K, the number of clusters.
    """

    num_components: int = 10


def build(facts: Facts, settings: MixtureSettings) -> tuple[Any, Any]:
    """A mixture VAE, whose component is summed out, and an amortized normal guide of z."""
    from ppl_vae.guides import AmortizedNormal
    from ppl_vae.models import MixtureVAE
    from ppl_vae.nn import MLP

    latent, hidden = settings.latent_dim, settings.hidden
    decoder = MLP(latent, facts.event_shape, hidden=tuple(reversed(hidden)))
    encoder = flattening(facts, MLP(facts.size, 2 * latent, hidden=hidden))
    model = MixtureVAE(
        decoder, latent_dim=latent, num_components=settings.num_components, likelihood=likelihood_of(facts)
    )
    return model, AmortizedNormal(encoder, latent_dim=latent)


def measure(fit: Fit, rows: Tensor, labels: Tensor | None) -> Mapping[str, float]:
    """How well the clusters, found without labels, agree with them."""
    from ppl_vae.diagnostics import cluster_agreement

    if labels is None or not bool((labels >= 0).any()):
        return {}
    found = cluster_agreement(fit.codes(rows, "c")[labels >= 0, 0], labels[labels >= 0])
    return {"cluster accuracy (best matching)": found.accuracy, "adjusted Rand index": found.adjusted_rand}


def panels(fit: Fit, dataset: Dataset) -> Mapping[str, Panel]:
    """Samples of each component, a row each, the most used first; of a table, the rows by component."""
    from ppl_vae.diagnostics import code_usage

    if dataset.image_shape is None:
        return {"clusters": partial(_by_component, fit, dataset)}
    order = code_usage(fit, dataset.train, "c").usage[0].argsort(descending=True, stable=True)

    def clusters(ax: Axes | None) -> Axes:
        from ppl_vae.plots import images

        c = order.repeat(PER_COMPONENT, 1).T.flatten()
        found = fit.simulate(len(c), mean=True, latents={"c": c})["x"]
        ax = images(found, shape=dataset.image_shape, columns=PER_COMPONENT, ax=ax)
        ax.set_title("samples: a component a row", fontsize=10)
        return ax

    return {"clusters": clusters}


def _by_component(fit: Fit, dataset: Dataset, ax: Axes | None) -> Axes:
    """The latent space, coloured by the most probable component."""
    from ppl_vae.recipes.figures import PLOTTED_ROWS, latent_space

    rows = (dataset.train if dataset.test is None else dataset.test)[:PLOTTED_ROWS]
    ax = latent_space(fit, rows, "z", fit.codes(rows, "c")[:, 0], ax)
    ax.set_title("latent space by cluster", fontsize=10)
    return ax


RECIPE = Recipe(
    name="mixture-vae",
    description="variational autoencoder with 10 clusters in a latent space of 8 dimensions, found without labels",
    data="digits",
    build=build,
    settings=MixtureSettings(),
    training=Training(epochs=200, lr=2e-3, weight_decay=5e-4),
    measure=measure,
    panels=panels,
)
