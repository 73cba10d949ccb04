"""The recipes by name, and the plain record that stands for a built one in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import Any

from ppl_vae.recipes import discrete_vae, flow, mixture_vae, ss_vae, survae, vae, vae_flow
from ppl_vae.recipes.base import MOST_STEPS, Facts, Recipe

_ALL: tuple[Recipe[Any], ...] = (
    vae.RECIPE,
    vae_flow.RECIPE,
    discrete_vae.RECIPE,
    ss_vae.RECIPE,
    mixture_vae.RECIPE,
    flow.RECIPE,
    survae.RECIPE,
)

#: every recipe by its name
RECIPES: dict[str, Recipe[Any]] = {recipe.name: recipe for recipe in _ALL}


def get_recipe(name: str) -> Recipe[Any]:
    """The recipe of a name.

    Raises:
        ValueError: there is none; the message has the nearest names.

    >>> get_recipe("vea")
    Traceback (most recent call last):
    ValueError: unknown recipe 'vea'; did you mean vae? (ppl-vae list shows all)
    """
    if name in RECIPES:
        return RECIPES[name]
    plain = name.strip().lower()
    near = [plain] if plain in RECIPES else get_close_matches(plain, RECIPES, n=3) or sorted(RECIPES)
    raise ValueError(f"unknown recipe {name!r}; did you mean {' or '.join(near)}? (ppl-vae list shows all)")


def record(recipe: Recipe[Any], facts: Facts, settings: Any) -> dict[str, Any]:
    """The plain fields for ``config.json`` from which :func:`rebuild` makes the pair again."""
    return {"name": recipe.name, "facts": asdict(facts), "settings": asdict(settings)}


def rebuild(record: Mapping[str, Any], *, num_weights: int | None = None) -> tuple[Any, Any]:
    """A new model and guide from what :func:`record` gave: a registered name and plain numbers, nothing
    executed.

    Args:
        num_weights: how many numbers the weights have that are to go into the pair: sizes beyond these are refused
            before a network of them is made.

    Raises:
        ValueError: the name is not registered, a field is missing or of another type, or the sizes are beyond.
    """
    recipe = get_recipe(_field(record, "name", str))
    facts, settings = _facts(_field(record, "facts", Mapping)), _field(record, "settings", Mapping)
    if num_weights is None:
        return recipe.build(facts, _settings(recipe, settings))
    from ppl_vae.recipes.ration import SLACK, Ration, require_sizes_within

    require_sizes_within(record, num_weights + SLACK)
    with Ration(2 * num_weights + SLACK):
        return recipe.build(facts, _settings(recipe, settings))


def _facts(record: Mapping[str, Any]) -> Facts:
    optional = {name: _optional(record, name) for name in ("num_classes", "steps_per_unit")}
    if (steps := optional["steps_per_unit"]) is not None and steps > MOST_STEPS:
        raise ValueError(f"recipe: the field 'steps_per_unit' must be at most {MOST_STEPS}, got {steps}")
    return Facts(_sizes(record, "event_shape"), _field(record, "binary", bool), **optional)


def _optional(record: Mapping[str, Any], name: str) -> int | None:
    """A whole number that may be missing: older runs have fewer facts."""
    return None if record.get(name) is None else _field(record, name, int)


def _settings(recipe: Recipe[Any], record: Mapping[str, Any]) -> Any:
    """The recipe's own class of settings, each field of the type of its default."""
    found = {}
    for size in fields(recipe.settings):
        many = isinstance(getattr(recipe.settings, size.name), tuple)
        found[size.name] = _sizes(record, size.name) if many else _field(record, size.name, int)
    return type(recipe.settings)(**found)


def _field(record: Mapping[str, Any], name: str, kind: type) -> Any:
    value = record.get(name) if isinstance(record, Mapping) else None
    fits = type(value) is int and value > 0 if kind is int else isinstance(value, kind)
    if not fits:
        required = "positive whole number" if kind is int else kind.__name__
        raise ValueError(f"recipe: the field {name!r} must be a {required}, got {value!r}")
    return value


def _sizes(record: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = record.get(name)
    if not isinstance(value, list | tuple) or not all(type(size) is int and size > 0 for size in value):
        raise ValueError(f"recipe: the field {name!r} must be a list of positive whole numbers, got {value!r}")
    return tuple(value)
