"""What the pairs of recipes are made of, by the facts of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ppl_vae.flows import Layer
    from ppl_vae.recipes.base import Facts


def likelihood_of(facts: Facts) -> str:
    """The name of p(x | latents): Bernoulli for zeros and ones, else normal with one learned scale."""
    return "bernoulli" if facts.binary else "normal"


def flattening(facts: Facts, encoder: nn.Module) -> nn.Module:
    """The encoder behind a layer that flattens images."""
    if len(facts.event_shape) == 1:
        return encoder
    from torch import nn

    return nn.Sequential(nn.Flatten(), encoder)


def couplings(make: Callable[..., Layer], dim: int, *, num_layers: int, **options: Any) -> list[Layer]:
    """Coupling layers along four masks in turn, so that every number is moved by others, near and far.

    Args:
        make: ``AffineCoupling`` or ``SplineCoupling``.
        dim: D, the size of what they map.
        num_layers: how many.
        options: of each layer.

    Raises:
        ValueError: a dim below 2.
    """
    from ppl_vae.flows import Alternate, Half

    if dim < 2:
        raise ValueError(f"couplings move some numbers by others: at least 2 are required, got {dim}")
    masks = (Half(), Half(swap=True), Alternate(), Alternate(swap=True))
    return [make(dim, mask=masks[i % len(masks)], **options) for i in range(num_layers)]
