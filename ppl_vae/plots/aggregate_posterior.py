"""Where the codes of all data lie, beside where the prior would have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppl_vae.plots.columns import MOST, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["aggregate_posterior"]


def aggregate_posterior(
    posterior: Any, prior: Any, *, names: Sequence[str] | None = None, most: int = MOST, ax: Axes | None = None
) -> Axes:
    """Draw each latent dimension: draws of the posteriors of all data as grey areas, of the prior as blue outlines.

    Where an area leaves its outline, codes drawn from the prior are not those that the decoder has learned from. A
    collapsed dimension fills its outline exactly; so may one that is used well.

    Args:
        posterior: (S, D) draws of the guide, of all data together.
        prior: (T, D) draws of the prior.
        names: of the dimensions; by default their numbers.
        most: how many dimensions are drawn, those that differ most.
        ax: whose place is taken; by default that of a new figure.

    Returns:
        the axes, within which each dimension has its own.

    Raises:
        ValueError: the two are no tables of the same dimensions.
    """
    title = "aggregate posterior (grey) and prior (blue)"
    return columns(posterior, prior, names=names, most=most, title=title, ax=ax)
