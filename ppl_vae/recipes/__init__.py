"""Recipes: a named pair, its data and its defaults, which the command line runs.

Nothing heavy is imported before a recipe is built.
"""

from __future__ import annotations

# what a recipe is, and the plain record from which its pair is built again
from ppl_vae.recipes.base import Facts, Recipe, Settings, Training

# the registry
from ppl_vae.recipes.registry import RECIPES, get_recipe, rebuild, record

__all__ = ["RECIPES", "Facts", "Recipe", "Settings", "Training", "get_recipe", "rebuild", "record"]
