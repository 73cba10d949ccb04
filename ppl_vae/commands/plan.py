"""What was asked for: the options of ``ppl-vae fit`` with the defaults of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ppl_vae.recipes.base import Recipe, Training
from ppl_vae.recipes.pair_file import is_pair_file
from ppl_vae.recipes.registry import get_recipe

#: the sizes that some recipe has
SIZES = ("latent_dim", "num_latents", "num_classes", "num_labels", "num_components", "num_layers")

#: how a file is read, and what that is by default
READING: dict[str, Any] = {"columns": (), "drop": (), "label": None, "index": None, "grey": False}


@dataclass(frozen=True)
class Plan:
    """What was asked for: all that a run must have in common with its continuation.

    Args:
        target: a recipe's name, or ``FILE.py:FUNCTION``.
        data: a data source; see :mod:`ppl_vae.recipes.sources`.
        epochs, batch_size, lr, weight_decay: how it is fitted.
        seed: of the networks' start, the order of the data and the noise.
        latent_dim, num_latents, num_classes, num_labels, num_components, num_layers: the sizes that the recipe
            has; None for others, and where the pair decides.
        columns, drop, label, index, grey: how a file is read; see :func:`ppl_vae.data.load_file`.
    """

    target: str
    data: str
    epochs: int
    batch_size: int
    lr: float
    seed: int
    weight_decay: float = 0.0
    latent_dim: int | None = None
    num_latents: int | None = None
    num_classes: int | None = None
    num_labels: int | None = None
    num_components: int | None = None
    num_layers: int | None = None
    columns: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    label: str | None = None
    index: str | None = None
    grey: bool = False

    @classmethod
    def of(cls, target: str, given: Mapping[str, Any]) -> Plan:
        """The options that were given, and the defaults of the recipe for the rest."""
        recipe = recipe_of(target)
        _refuse_other_sizes(target, recipe, given)
        training = recipe.training if recipe else Training()
        defaults = {
            **asdict(training),
            "data": recipe.data if recipe else "digits",
            "seed": 0,
            **(recipe.sizes if recipe else {}),
            **READING,
        }
        return cls(
            target,
            **{name: default if given.get(name) is None else given[name] for name, default in defaults.items()},
        )

    @classmethod
    def saved(cls, record: Mapping[str, Any]) -> Plan:
        """The plan that a file of a run holds, as plain data; those of older runs have fewer fields."""
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**{**known, **lists})

    def settings(self, recipe: Recipe[Any]) -> Any:
        """The recipe's settings with the sizes of this plan."""
        sizes = {name: getattr(self, name) for name in recipe.sizes}
        return replace(recipe.settings, **{name: size for name, size in sizes.items() if size is not None})

    @property
    def reading(self) -> dict[str, Any]:
        """How the file is read, as :func:`ppl_vae.recipes.sources.open_source` takes it."""
        return {name: getattr(self, name) for name in READING}

    @property
    def folder(self) -> Path:
        """Where the run goes by default: ``runs/TARGET-DATA``."""
        target, data = (text.rstrip("/").rpartition("/")[2].replace(".py", "") for text in (self.target, self.data))
        data = data.partition(":")[0] if data.startswith("mnist:") else Path(data).stem
        return Path("runs") / f"{target.replace(':', '-')}-{data}"


def option(name: str) -> str:
    """How a field of a plan is called on the command line.

    >>> option("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def recipe_of(target: str) -> Recipe[Any] | None:
    """The recipe of a target; None for a pair from a file."""
    return None if is_pair_file(target) else get_recipe(target)


def _refuse_other_sizes(target: str, recipe: Recipe[Any] | None, given: Mapping[str, Any]) -> None:
    known = list(recipe.sizes) if recipe else []
    for name in SIZES:
        if given.get(name) is None or name in known:
            continue
        if recipe is None:
            raise ValueError(f"{target}: {option(name)} is for recipes; the pair in a file decides for itself")
        raise ValueError(f"{target}: {option(name)} is none of its sizes, which are {', '.join(map(option, known))}")
