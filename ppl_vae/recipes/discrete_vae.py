"""A code in the place of z: one class of fifty by default, summed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppl_vae.recipes.base import Facts, Panel, Recipe, Training
from ppl_vae.recipes.networks import flattening, likelihood_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit

MOST_CODES = 4096
"""So many joint codes are summed over in each step, and in the exact log-likelihood of the report; of more, some are
drawn."""


@dataclass(frozen=True)
class CodeSettings:
    """The sizes of a pair with a code.

    Args:
        num_latents: M.
        num_classes: K.
        hidden: the widths of the hidden layers of each network.
    """

    num_latents: int = 1
    num_classes: int = 50
    hidden: tuple[int, ...] = (128,)

    @property
    def num_codes(self) -> int:
        """K^M, the number of joint codes."""
        return self.num_classes**self.num_latents


def build(facts: Facts, settings: CodeSettings) -> tuple[Any, Any]:
    """A discrete VAE, and the guide that sums its codes out, or draws them where they are too many."""
    from ppl_vae.guides import EnumeratedCategorical, SampledCategorical
    from ppl_vae.models import DiscreteVAE
    from ppl_vae.nn import MLP

    latents, classes, hidden = settings.num_latents, settings.num_classes, settings.hidden
    decoder = MLP(latents * classes, facts.event_shape, hidden=tuple(reversed(hidden)))
    encoder = flattening(facts, MLP(facts.size, latents * classes, hidden=hidden))
    family = SampledCategorical if _too_many(settings) else EnumeratedCategorical
    model = DiscreteVAE(decoder, num_latents=latents, num_classes=classes, likelihood=likelihood_of(facts))
    return model, family(encoder, num_latents=latents, num_classes=classes)


def _too_many(settings: CodeSettings) -> bool:
    return settings.num_codes > MOST_CODES


def objective(settings: CodeSettings) -> Any:
    """The ELBO, or RLOO for codes that are drawn."""
    if not _too_many(settings):
        return None
    from ppl_vae.objectives import RLOO

    return RLOO(4)


def note(settings: CodeSettings) -> str:
    """That codes are drawn, where they are."""
    if not _too_many(settings):
        return ""
    return (
        f"{settings.num_classes}^{settings.num_latents} joint codes are too many to be summed over (at most "
        f"{MOST_CODES}): they are drawn, the objective is RLOO(4), and the log-likelihood is estimated"
    )


def panels(fit: Fit, dataset: Dataset) -> Mapping[str, Panel]:
    """The mean image of every class, the most used first, where there is one latent."""
    from ppl_vae.diagnostics import code_usage

    usage = code_usage(fit, dataset.train).usage
    if len(usage) > 1 or dataset.image_shape is None:
        return {}

    def classes(ax: Axes | None) -> Axes:
        from ppl_vae.plots import images

        order = usage[0].argsort(descending=True, stable=True)
        ax = images(fit.decode(order.unsqueeze(1)), shape=dataset.image_shape, columns=10, ax=ax)
        ax.set_title(f"the {len(order)} classes, by use", fontsize=10)
        return ax

    return {"classes": classes}


RECIPE = Recipe(
    name="discrete-vae",
    description="one code of 50 classes in the place of z, summed out; networks with a hidden layer of 128",
    data="digits",
    build=build,
    settings=CodeSettings(),
    training=Training(epochs=60, lr=1e-2, weight_decay=5e-4),
    objective=objective,
    note=note,
    panels=panels,
)
