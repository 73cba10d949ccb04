"""Back from a run folder: the fit, and data in the columns that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.commands.plan import READING, Plan
from ppl_vae.recipes.pair_file import is_pair_file, load_pair_function
from ppl_vae.recipes.scale import Scale
from ppl_vae.recipes.sources import open_source
from ppl_vae.storage import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit


@dataclass(frozen=True)
class Origin:
    """What ``config.json`` says of the data of a run.

    Args:
        plan: the options.
        scale: between the units of the data and those of the model.
        image_shape: of one image, where they are images.
        feature_names: the names of the columns, in their order.
        label_names: the names of the classes, by number.
    """

    plan: Plan
    scale: Scale | None = None
    image_shape: tuple[int, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, source: Mapping[str, Any]) -> Origin:
        """Read it off the plain data in ``config.json``; those of older runs have less."""

        def words(name: str) -> tuple[str, ...] | None:
            return tuple(source[name]) if source.get(name) else None

        return cls(
            Plan.saved(source),
            Scale.saved(source["scale"]) if source.get("scale") else None,
            tuple(source["image_shape"]) if source.get("image_shape") else None,
            words("feature_names"),
            words("label_names"),
        )

    def open(self, source: str | None = None, *, hold_out: bool = True) -> Dataset:
        """The data of the run, or another source: the same columns in the same order, in their own units.

        Args:
            source: a data source; None for that of the run.
            hold_out: whether one row in five is held out of data without a test part.

        Raises:
            ValueError: the source lacks columns of the run; they are named.
        """
        text = source or self.plan.data
        reading, notes = self._reading(text)
        dataset = open_source(text, **reading, hold_out=hold_out)
        dataset = replace(dataset, notes=dataset.notes + notes)
        return self.scale.described(dataset) if self.scale else dataset

    def _reading(self, text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """How a file is read so that it gives the columns of the run, and what is to be said of it."""
        if text == self.plan.data or not text.lower().endswith(".csv"):
            if text != self.plan.data:
                return {**READING, "grey": self.plan.grey}, ()
            return {**self.plan.reading, "class_names": self.label_names if self.plan.label else None}, ()
        from ppl_vae.data.csv_file import read_cells

        cells = read_cells(Path(text))
        if self.feature_names is None:
            return self.plan.reading, ()
        if not cells.has_header:
            return READING, ("the file has no names of columns: they are taken in the order of the run's",)
        there = set(cells.names)
        if missing := [name for name in self.feature_names if name not in there]:
            raise ValueError(
                f"{text}: the columns of the run are required, there is no {', '.join(map(repr, missing))} among "
                f"{', '.join(cells.names)}"
            )
        label, index = (name if name in there else None for name in (self.plan.label, self.plan.index))
        reading = {"columns": self.feature_names, "label": label, "index": index, "class_names": self.label_names}
        return reading, self._said_of({*self.feature_names, label, index}, cells.names)

    def _said_of(self, used: set[str | None], names: tuple[str, ...]) -> tuple[str, ...]:
        dropped = {part.strip() for text in self.plan.drop for part in (text, *text.split(","))}
        extra = [name for name in names if name not in used and name not in dropped]
        absent = [
            f"there is no column {name!r}, and rows are without {what}"
            for name, what in ((self.plan.label, "labels"), (self.plan.index, "names"))
            if name is not None and name not in used
        ]
        passed_over = [f"columns that the run has not are passed over: {', '.join(extra)}"] if extra else []
        return (*absent, *passed_over)


@dataclass(frozen=True)
class Opened:
    """A run that was read back."""

    fit: Fit
    origin: Origin = field()

    @property
    def plan(self) -> Plan:
        """The options of the run."""
        return self.origin.plan

    def dataset(self, source: str | None = None, *, hold_out: bool = True) -> Dataset:
        """The data of the run, or another source, in their own units; see :meth:`Origin.open`."""
        return self.origin.open(source, hold_out=hold_out)

    def training_rows(self) -> tuple[Tensor | None, str]:
        """The rows that the run was trained on, in their own units; or None, and why they cannot be had."""
        try:
            return self.dataset().train, ""
        except (ValueError, OSError):
            source = self.plan.data
            return None, f"{source}, the data of the run, cannot be read: nothing is said of its training rows"


def open_run(folder: Path, *, pair: str | None = None, data: str | None = None) -> Opened:
    """Read a run folder back.

    Args:
        folder: the run.
        pair: ``FILE.py:FUNCTION`` for a run of a person's own pair; a run folder never says what code to run.
        data: the data source that the function is given, if not that of the run.
    """
    from ppl_vae.loading import load_saved
    from ppl_vae.saving import read_config

    with RunFolder(folder).snapshot() as saved:
        origin = Origin.of(source_in(read_config(saved), folder))
        plan = origin.plan
        if not is_pair_file(plan.target):
            if pair is not None:
                raise ValueError(f"{folder}: a run of the recipe {plan.target}; leave out --pair")
            return Opened(load_saved(saved), origin)
        if pair is None:
            raise ValueError(f"{folder}: a run of a pair from a file; name it again with --pair {plan.target}")
        model, guide = load_pair_function(pair)(origin.open(data, hold_out=data is None).train)
        return Opened(load_saved(saved, model, guide), origin)


def needs_pair(folder: Path) -> bool:
    """Is this a run of a person's own pair, which a run folder does not hold?"""
    from ppl_vae.saving import read_config

    with RunFolder(folder).snapshot() as saved:
        return is_pair_file(Origin.of(source_in(read_config(saved), folder)).plan.target)


def source_in(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the configuration of a run says of where it came from.

    Raises:
        ValueError: the run was made in Python.
    """
    source = config["fit"].get("source")
    if not isinstance(source, dict) or not required_of_plan() <= set(source):
        raise ValueError(f"{folder}: this run was not made by the command line")
    return source


def required_of_plan() -> set[str]:
    """What every saved plan says."""
    return {part.name for part in fields(Plan) if part.default is MISSING}
