"""The default recipe: a variational autoencoder with two hidden layers on each side."""

from __future__ import annotations

from typing import Any

from ppl_vae.recipes.base import Facts, Recipe, Settings, Training
from ppl_vae.recipes.networks import flattening, likelihood_of


def build(facts: Facts, settings: Settings) -> tuple[Any, Any]:
    """A VAE and an amortized normal guide; Bernoulli for data of zeros and ones, else normal with one learned
    scale.
    """
    from ppl_vae.guides import AmortizedNormal
    from ppl_vae.models import VAE
    from ppl_vae.nn import MLP

    latent, hidden = settings.latent_dim, settings.hidden
    decoder = MLP(latent, facts.event_shape, hidden=tuple(reversed(hidden)))
    encoder = flattening(facts, MLP(facts.size, 2 * latent, hidden=hidden))
    model = VAE(decoder, latent_dim=latent, likelihood=likelihood_of(facts))
    return model, AmortizedNormal(encoder, latent_dim=latent)


RECIPE = Recipe(
    name="vae",
    description="variational autoencoder, two hidden layers of 128 on each side, 8 latent dimensions",
    data="digits",
    build=build,
    settings=Settings(),
    training=Training(epochs=200, lr=2e-3),
)
