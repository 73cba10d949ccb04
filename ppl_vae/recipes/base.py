"""What a recipe is: a name, data, defaults, and a function that builds the pair from plain fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit

S = TypeVar("S")
Panel = Callable[["Axes | None"], "Axes"]


@dataclass(frozen=True)
class Facts:
    """What building a pair needs to know of the data; plain fields, so that it can be built without the data.

    Args:
        event_shape: the shape of one datum.
        binary: whether every entry is 0 or 1.
        num_classes: of the labels, which are 0, 1, ...; None where there are none.
        steps_per_unit: d, the least for which every entry is a whole multiple of 1 / d, up to 255; None for numbers
            of any value.
    """

    event_shape: tuple[int, ...]
    binary: bool
    num_classes: int | None = None
    steps_per_unit: int | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Facts:
        """Look at the training rows."""
        train, labels = dataset.train, dataset.train_labels
        binary = bool(((train == 0) | (train == 1)).all())
        num_classes = None if labels is None else int(labels.max()) + 1
        return cls(tuple(train.shape[1:]), binary, num_classes, steps_per_unit(train))

    @property
    def size(self) -> int:
        """The number of entries of one datum."""
        size = 1
        for length in self.event_shape:
            size *= length
        return size


MOST_STEPS = 255


def steps_per_unit(rows: Tensor) -> int | None:
    """The least d, up to 255, for which every entry is a whole multiple of 1 / d; None where there is none."""
    from ppl_vae.flows.domains import Multiples

    some = rows.flatten()[:1000].unique()
    candidates = (d for d in range(1, MOST_STEPS + 1) if Multiples(1 / d).check(some).all())
    return next((d for d in candidates if Multiples(1 / d).check(rows).all()), None)


@dataclass(frozen=True)
class Settings:
    """The sizes of the pair: plain whole numbers, and lists of them. A recipe of other sizes has a class of its own.

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
        weight_decay: w, for the penalty w/2 |parameters|² beside the loss, nats per datum: a normal prior of variance
            1/(N w) on every parameter, which no likelihood counts.
    """

    epochs: int = 150
    batch_size: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0


def train_rows(dataset: Dataset, settings: Any, seed: int) -> Tensor:
    """All rows to train on, without their labels."""
    return dataset.train


def the_elbo(settings: Any) -> None:
    """What is maximized by default."""


def nothing_to_say(settings: Any) -> str:
    """No note."""
    return ""


def no_numbers(fit: Fit, rows: Tensor, labels: Tensor | None) -> Mapping[str, float]:
    """Nothing beside the evidence."""
    return {}


def no_panels(fit: Fit, dataset: Dataset) -> Mapping[str, Panel]:
    """No figures but those of every fit."""
    return {}


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """A named pair with its data and defaults.

    Implementing a new one:

    - a module ``ppl_vae/recipes/NAME.py`` with a function ``build(facts, settings) -> (model, guide)`` (its
      imports inside, so that ``ppl-vae list`` stays quick) and ``RECIPE = Recipe(...)``;
    - a line in ``ppl_vae/recipes/registry.py``;
    - a line in the table of ``tests/recipes/test_recipes.py``;
    - sizes of its own: a frozen dataclass of whole numbers and tuples of them, and an option of that name in
      ``ppl_vae/cli`` and ``commands.plan.Plan``.

    Args:
        name: what the command line calls it.
        description: one line.
        data: the default data source; see :mod:`ppl_vae.recipes.sources`.
        build: makes a new pair from facts and settings; the caller seeds torch.
        settings: default sizes.
        training: how it is fitted by default.
        rows: what is fitted, of a data set, the settings and a seed.
        objective: what is maximized, for the settings; None for the ELBO.
        note: what must be known of a fit with these settings, one sentence without a full stop, or nothing.
        measure: further numbers for the report, of a fit, rows and their labels.
        panels: figures by name, of a fit and its data, in the place of samples from the prior.
        standardize: whether tables of real numbers are brought to mean 0 and standard deviation 1, column by
            column, and grey levels to 0..1; see :class:`ppl_vae.recipes.scale.Scale`.
        label_site: the latent whose classes are the labels of the data, where there is one.
        continuous: is p(x) a density without a noise of its own? Then columns of few values are refused.
    """

    name: str
    description: str
    data: str
    build: Callable[[Facts, S], tuple[Any, Any]]
    settings: S
    training: Training = field(default_factory=Training)
    rows: Callable[[Dataset, S, int], Any] = train_rows
    objective: Callable[[S], Any] = the_elbo
    note: Callable[[S], str] = nothing_to_say
    measure: Callable[[Fit, Tensor, Tensor | None], Mapping[str, float]] = no_numbers
    panels: Callable[[Fit, Dataset], Mapping[str, Panel]] = no_panels
    standardize: bool = True
    label_site: str | None = None
    continuous: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The settings that are one whole number, by name: the options of the command line."""
        values = {size.name: getattr(self.settings, size.name) for size in fields(self.settings)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, int)}
