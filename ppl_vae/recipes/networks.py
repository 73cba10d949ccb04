"""What the pairs of recipes are made of, by the facts of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

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
