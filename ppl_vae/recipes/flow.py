"""A normalizing flow of a table of real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_vae.recipes.base import Facts, Recipe, Training
from ppl_vae.recipes.networks import couplings


@dataclass(frozen=True)
class FlowSettings:
    """The sizes of a flow.

    Args:
        num_layers: how many couplings.
        hidden: the widths of the hidden layers of the network of each.
    """

    num_layers: int = 2
    hidden: tuple[int, ...] = (32,)


def build(facts: Facts, settings: FlowSettings) -> tuple[Any, Any]:
    """A matrix and spline couplings, as a model and a guide that are one flow: the ELBO is the log-likelihood.

    Raises:
        ValueError: data on levels, such as grey values, whose density has no upper bound; fewer than two numbers a
            row.
    """
    from ppl_vae.flows import ActNorm, Chain, Flatten, LULinear, SplineCoupling
    from ppl_vae.guides import FlowGuide
    from ppl_vae.models import FlowModel

    if facts.steps_per_unit is not None:
        raise ValueError(
            "flow: real numbers are required, got data on levels (whole multiples of "
            f"1/{facts.steps_per_unit}), on which a density has no upper bound; take the recipe survae"
        )
    size = facts.size
    splines = couplings(SplineCoupling, size, num_layers=settings.num_layers, hidden=settings.hidden)
    flow = Chain([Flatten(facts.event_shape), ActNorm(size), LULinear(size), *splines])
    return FlowModel(flow), FlowGuide(flow)


RECIPE = Recipe(
    name="flow",
    description="normalizing flow, a matrix and 2 spline couplings; its ELBO is the log-likelihood",
    data="iris",
    build=build,
    settings=FlowSettings(),
    training=Training(epochs=30, batch_size=40, lr=5e-3, weight_decay=3e-2),
    continuous=True,
)
