"""A VAE whose posterior is a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_vae.recipes.base import Facts, Recipe, Settings, Training
from ppl_vae.recipes.networks import couplings, flattening, likelihood_of


@dataclass(frozen=True)
class PosteriorSettings(Settings):
    """The sizes of a VAE with a flow as its posterior.

    Args:
        latent_dim: L, the size of z.
        hidden: the widths of the hidden layers of encoder and decoder.
        num_layers: how many couplings the posterior has, behind the normal that the encoder gives.
    """

    num_layers: int = 2


def build(facts: Facts, settings: PosteriorSettings) -> tuple[Any, Any]:
    """The model of the recipe ``vae``; its guide draws a normal z and moves it through couplings that see x."""
    from torch import nn

    from ppl_vae.flows import AffineCoupling, Chain, ElementwiseAffine, Inverse
    from ppl_vae.guides import AmortizedFlow
    from ppl_vae.models import VAE
    from ppl_vae.nn import MLP

    latent, hidden = settings.latent_dim, settings.hidden
    decoder = MLP(latent, facts.event_shape, hidden=tuple(reversed(hidden)))
    size = hidden[-1]
    encoder = flattening(facts, nn.Sequential(MLP(facts.size, size, hidden=hidden[:-1]), nn.SiLU()))
    # Turned round, so that what a draw goes through is x = z exp(s) + t: the last of them is first.
    moves = couplings(AffineCoupling, latent, num_layers=settings.num_layers, hidden=(64,), context_dim=size)
    normal = ElementwiseAffine(latent, context_dim=size, hidden=())
    flow = Chain([Inverse(layer) for layer in (*moves, normal)])
    model = VAE(decoder, latent_dim=latent, likelihood=likelihood_of(facts))
    return model, AmortizedFlow(encoder, flow, latent_dim=latent)


RECIPE = Recipe(
    name="vae-flow",
    description="the recipe vae with a flow as q(z|x): 2 affine couplings behind the normal that the encoder gives",
    data="digits",
    build=build,
    settings=PosteriorSettings(),
    training=Training(epochs=200, lr=2e-3),
)
