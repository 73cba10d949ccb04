"""The recipes by name, and the plain record that stands for a built one in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from ppl_vae.recipes import vae
from ppl_vae.recipes.base import Facts, Recipe, Settings

#: every recipe by its name
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (vae.RECIPE,)}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ValueError: there is none; the message has the nearest names.

    >>> get_recipe("vea")
    Traceback (most recent call last):
    ValueError: unknown recipe 'vea'; did you mean vae? (ppl-vae list shows all)
    """
    if name in RECIPES:
        return RECIPES[name]
    near = get_close_matches(name, RECIPES, n=3, cutoff=0.5) or sorted(RECIPES)
    raise ValueError(f"unknown recipe {name!r}; did you mean {' or '.join(near)}? (ppl-vae list shows all)")


def record(recipe: Recipe, facts: Facts, settings: Settings) -> dict[str, Any]:
    """The plain fields for ``config.json`` from which :func:`rebuild` makes the pair again."""
    return {"name": recipe.name, "facts": asdict(facts), "settings": asdict(settings)}


def rebuild(fields: Mapping[str, Any]) -> tuple[Any, Any]:
    """A new model and guide from what :func:`record` gave: a registered name and plain numbers, nothing
    executed.

    Raises:
        ValueError: the name is not registered, or a field is missing or of another type.
    """
    recipe = get_recipe(_field(fields, "name", str))
    facts, settings = _field(fields, "facts", Mapping), _field(fields, "settings", Mapping)
    return recipe.build(
        Facts(event_shape=_sizes(facts, "event_shape"), binary=_field(facts, "binary", bool)),
        Settings(latent_dim=_field(settings, "latent_dim", int), hidden=_sizes(settings, "hidden")),
    )


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(value, kind):
        raise ValueError(f"recipe: the field {name!r} must be a {kind.__name__}, got {value!r}")
    return value


def _sizes(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = fields.get(name)
    if not isinstance(value, list | tuple) or not all(type(size) is int and size > 0 for size in value):
        raise ValueError(f"recipe: the field {name!r} must be a list of positive whole numbers, got {value!r}")
    return tuple(value)
