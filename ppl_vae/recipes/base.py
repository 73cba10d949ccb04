"""What a recipe is: a name, data, defaults, and a function that builds the pair from plain fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae.data import Dataset


@dataclass(frozen=True)
class Facts:
    """What building a pair needs to know of the data; plain fields, so that it can be built without the data.

    Args:
        event_shape: the shape of one datum.
        binary: whether every entry is 0 or 1.
    """

    event_shape: tuple[int, ...]
    binary: bool

    @classmethod
    def of(cls, dataset: Dataset) -> Facts:
        """Look at the training rows."""
        train = dataset.train
        return cls(tuple(train.shape[1:]), bool(((train == 0) | (train == 1)).all()))

    @property
    def size(self) -> int:
        """The number of entries of one datum."""
        size = 1
        for length in self.event_shape:
            size *= length
        return size


@dataclass(frozen=True)
class Settings:
    """The sizes of the pair.

    Args:
        latent_dim: L, the size of z.
        hidden: the widths of the hidden layers of each network.
    """

    latent_dim: int = 8
    hidden: tuple[int, ...] = (128, 128)


@dataclass(frozen=True)
class Training:
    """How it is fitted.

    Args:
        epochs: passes over the training rows.
        batch_size: B, rows a step.
        lr: the learning rate.
    """

    epochs: int = 150
    batch_size: int = 100
    lr: float = 1e-3


Build = Callable[[Facts, Settings], tuple[Any, Any]]


@dataclass(frozen=True)
class Recipe:
    """A named pair with its data and defaults.

    Implementing a new one:

    - a module ``ppl_vae/recipes/NAME.py`` with a function ``build(facts, settings) -> (model, guide)`` (its
      imports inside, so that ``ppl-vae list`` stays quick) and ``RECIPE = Recipe(...)``;
    - a line in ``ppl_vae/recipes/registry.py``;
    - a line in the table of ``tests/recipes/test_recipes.py``.

    Args:
        name: what the command line calls it.
        description: one line.
        data: the default data source; see :mod:`ppl_vae.recipes.sources`.
        build: makes a new pair; the caller seeds torch.
        settings: default sizes.
        training: how it is fitted by default.
        standardize: whether tables of real numbers are brought to mean 0 and standard deviation 1, column by
            column.
    """

    name: str
    description: str
    data: str
    build: Build
    settings: Settings = field(default_factory=Settings)
    training: Training = field(default_factory=Training)
    standardize: bool = True
