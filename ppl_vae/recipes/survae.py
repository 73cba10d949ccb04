"""A flow with a surjection: grey values, counts or rounded numbers, whose rounding is a layer."""

from __future__ import annotations

from typing import Any

from ppl_vae.recipes.base import Facts, Recipe, Training
from ppl_vae.recipes.flow import FlowSettings
from ppl_vae.recipes.networks import couplings


def build(facts: Facts, settings: FlowSettings) -> tuple[Any, Any]:
    """``Round``, undone by uniform noise, and spline couplings.

    The ELBO is a lower bound on the log probability of data on levels.

    Raises:
        ValueError: data of any value; fewer than two numbers a row.
    """
    from ppl_vae.flows import ActNorm, Chain, Flatten, Round, SplineCoupling
    from ppl_vae.guides import FlowGuide
    from ppl_vae.models import FlowModel

    if facts.steps_per_unit is None:
        raise ValueError(
            "survae: data on levels are required (grey values, counts, zeros and ones), whole multiples of 1/d with d "
            "up to 255; got numbers of any value; take the recipe flow"
        )
    size = facts.size
    splines = couplings(SplineCoupling, size, num_layers=settings.num_layers, hidden=settings.hidden)
    rounding = Round(facts.event_shape, step=1 / facts.steps_per_unit)
    flow = Chain([rounding, Flatten(facts.event_shape), ActNorm(size), *splines])
    return FlowModel(flow), FlowGuide(flow)


def note(settings: FlowSettings) -> str:
    """What the numbers are of."""
    return (
        "rounding is a layer of the flow, undone by uniform noise: the log-likelihood is of the probability of the "
        "levels themselves, and ELBO and importance-weighted estimate are lower bounds on it"
    )


RECIPE = Recipe(
    name="survae",
    description="flow with a surjection, rounding and 4 spline couplings; bounds the probability of grey values",
    data="grey-digits",
    build=build,
    settings=FlowSettings(num_layers=4, hidden=(64,)),
    training=Training(epochs=50, lr=2e-3, weight_decay=3e-2),
    note=note,
    standardize=False,
)
