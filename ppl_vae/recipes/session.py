"""What the commands do: from a recipe or a file and some options to a run folder, and back from one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.recipes.base import Facts, Recipe, Training
from ppl_vae.recipes.claim import require_run
from ppl_vae.recipes.pair_file import blame, is_pair_file, load_pair_function
from ppl_vae.recipes.registry import get_recipe, record
from ppl_vae.recipes.sources import Scale, open_source
from ppl_vae.storage import (
    RunFolder,
    StorageError,
    load_tree,
    read_json,
    require_plain_folder,
    require_plain_name,
    save_tree,
    write_json,
)
from ppl_vae.storage.form import require_form

if TYPE_CHECKING:
    from ppl_vae.data import Dataset
    from ppl_vae.recipes.report import Report
    from ppl_vae.result import Fit


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
        }
        return cls(
            target,
            **{name: default if given.get(name) is None else given[name] for name, default in defaults.items()},
        )

    def settings(self, recipe: Recipe[Any]) -> Any:
        """The recipe's settings with the sizes of this plan."""
        sizes = {name: getattr(self, name) for name in recipe.sizes}
        return replace(recipe.settings, **{name: size for name, size in sizes.items() if size is not None})

    @property
    def folder(self) -> Path:
        """Where the run goes by default: ``runs/TARGET-DATA``."""
        target, data = (text.rpartition("/")[2].replace(".py", "") for text in (self.target, self.data))
        data = data.partition(":")[0] if data.startswith("mnist:") else Path(data).stem
        return Path("runs") / f"{target.replace(':', '-')}-{data}"


#: the sizes that some recipe has
SIZES = ("latent_dim", "num_latents", "num_classes", "num_labels", "num_components", "num_layers")


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


@dataclass(frozen=True)
class Prepared:
    """A pair and its data, ready to be fitted.

    Args:
        plan: what was asked for.
        model, guide: the pair.
        dataset: its data.
        rows: what of the data is fitted.
        objective: what is maximized; None for the ELBO.
        note: what must be known of the fit, in a sentence; or nothing.
        scale: by what the data were standardized.
        recipe: plain fields from which the pair is built again.
    """

    plan: Plan
    model: Any
    guide: Any
    dataset: Dataset
    rows: Any
    objective: Any = None
    note: str = ""
    scale: Scale | None = None
    recipe: dict[str, Any] | None = None

    def source(self) -> dict[str, Any]:
        """What ``config.json`` says of where the run came from: names and plain fields."""
        shape = self.dataset.image_shape
        return {
            **asdict(self.plan),
            "scale": asdict(self.scale) if self.scale else None,
            "image_shape": list(shape) if shape else None,
        }


def prepare(plan: Plan) -> Prepared:
    """Open the data and build the pair."""
    from ppl_vae._random import fold, isolated_rng

    recipe = recipe_of(plan.target)
    build = _recipe_builder(plan, recipe) if recipe else _file_builder(plan)
    dataset = open_source(plan.data)
    with isolated_rng(fold(plan.seed, "build")):
        return build(dataset)


def _file_builder(plan: Plan) -> Callable[[Dataset], Prepared]:
    function = load_pair_function(plan.target)
    return lambda dataset: Prepared(plan, *function(dataset.train), dataset, dataset.train)


def _recipe_builder(plan: Plan, recipe: Recipe[Any]) -> Callable[[Dataset], Prepared]:
    def build(dataset: Dataset) -> Prepared:
        scale = Scale.of(dataset) if recipe.standardize else None
        dataset = scale.apply(dataset) if scale else dataset
        facts, settings = Facts.of(dataset), plan.settings(recipe)
        model, guide = recipe.build(facts, settings)
        return Prepared(
            plan,
            model,
            guide,
            dataset,
            recipe.rows(dataset, settings, plan.seed),
            recipe.objective(settings),
            recipe.note(settings),
            scale,
            record(recipe, facts, settings),
        )

    return build


def _optimizer(weight_decay: float) -> Any:
    import torch

    return partial(torch.optim.Adam, weight_decay=weight_decay) if weight_decay else torch.optim.Adam


def fit(prepared: Prepared, folder: Path, *, device: str = "auto", resume: bool = False, progress: bool = True) -> Fit:
    """Fit, with the state of the run in ``folder/checkpoint`` after each epoch, until :func:`save` has written all."""
    from ppl_vae.inference import VariationalEM

    plan, rows = prepared.plan, prepared.rows
    checkpoint = folder / RunFolder.CHECKPOINT
    batch_size = plan.batch_size if plan.batch_size < len(prepared.dataset.train) else None
    with blame(plan.target) if is_pair_file(plan.target) else nullcontext():
        em = VariationalEM(
            prepared.model,
            prepared.guide,
            objective=prepared.objective,
            optimizer=_optimizer(plan.weight_decay),
            lr=plan.lr,
            device=device,
        )
        em.pair.initialize(rows, seed=plan.seed, batch_size=batch_size)  # what is wrong with the pair is said here
        if not resume:
            shutil.rmtree(require_plain_folder(folder, RunFolder.CHECKPOINT), ignore_errors=True)
            checkpoint.mkdir(parents=True, exist_ok=True)
            write_json(checkpoint / RunFolder.CONFIG, asdict(plan))
        found = em.fit(
            rows,
            epochs=plan.epochs,
            batch_size=batch_size,
            seed=plan.seed,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
        )
    found.config["source"] = prepared.source()
    return found


def resumed(plan: Plan, given: Mapping[str, Any], folder: Path) -> Plan:
    """The plan of the run in ``folder``, to be gone on with; only the number of epochs may be another one.

    Raises:
        ValueError: there is nothing to go on with, or an option differs from that of the run.
    """
    require_run(folder)
    checkpoint, run = require_plain_folder(folder, RunFolder.CHECKPOINT), RunFolder(folder)
    cut_off = (checkpoint / RunFolder.CONFIG).exists()
    saved = _saved_plan(checkpoint, run, cut_off)
    for name in ("data", "batch_size", "lr", "weight_decay", "seed", *SIZES):
        was = getattr(saved, name)
        if given.get(name) is not None and given[name] != was:
            raise ValueError(f"{folder}: the run has {option(name)} {was}, got {given[name]}; leave it out to resume")
    if _same_file(plan.target) != _same_file(saved.target):
        raise ValueError(f"{folder}: the run is of {saved.target}, got {plan.target}")
    goal = replace(saved, epochs=given["epochs"]) if given.get("epochs") is not None else saved
    state = _state_of(checkpoint, run, cut_off)  # a damaged one is named before any work is done
    if state is not None and goal.epochs < state["epoch"]:
        raise ValueError(f"{folder}: the run has {state['epoch']} epochs already, got --epochs {goal.epochs}")
    if not cut_off:
        checkpoint.mkdir(exist_ok=True)
        write_json(checkpoint / RunFolder.CONFIG, asdict(saved))
        save_tree(checkpoint / RunFolder.STATE, state)
    return goal


def _state_of(checkpoint: Path, run: RunFolder, cut_off: bool) -> dict[str, Any] | None:
    """The state to go on from; None for a run that was cut off before its first checkpoint."""
    if not cut_off:
        from ppl_vae.training.checkpoint import saved_state

        return saved_state(run)
    file = checkpoint / RunFolder.STATE
    return load_tree(file) if file.exists() else None


def _same_file(target: str) -> str:
    """A target by what it names, not by how it is spelled."""
    path, colon, function = target.rpartition(":")
    return f"{Path(path).resolve()}:{function}" if colon else target


def _source_in(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    source = config["fit"].get("source")
    if not isinstance(source, dict) or not _required() <= set(source):
        raise ValueError(f"{folder}: this run was not made by the command line")
    return source


def _required() -> set[str]:
    return {field.name for field in fields(Plan) if field.default is MISSING}


def _plan_in(source: Mapping[str, Any]) -> Plan:
    return Plan(**{field.name: source[field.name] for field in fields(Plan) if field.name in source})


def _saved_plan(checkpoint: Path, run: RunFolder, cut_off: bool) -> Plan:
    from ppl_vae.saving import SOURCE, read_config

    if not cut_off:
        with run.snapshot([RunFolder.CONFIG]) as saved:
            return _plan_in(_source_in(read_config(saved), run.path))
    path = require_plain_name(checkpoint, RunFolder.CONFIG)
    require_form(source := read_json(path), SOURCE, path)
    if missing := sorted(_required() - set(source)):
        raise StorageError(path, f"{', '.join(missing)} must be there")
    return _plan_in(source)


def save(found: Fit, prepared: Prepared, folder: Path, report: Report, *, command: str) -> list[str]:
    """Write the run folder, with the posterior, figures and a model card; returns the names of the files."""
    from ppl_vae.recipes.figures import figures
    from ppl_vae.recipes.report import model_card, posterior_rows
    from ppl_vae.saving import save_fit

    dataset, recipe = prepared.dataset, recipe_of(prepared.plan.target)
    found.config["results"] = report.numbers()
    pictures = figures(found, dataset, recipe.panels(found, dataset) if recipe else {})
    title = f"{prepared.plan.target} on {dataset.name}"
    card = model_card(
        title,
        command,
        found,
        dataset,
        report,
        list(pictures),
        note=prepared.note,
        is_recipe=recipe is not None,
    )
    extra = {**pictures, RunFolder.README: card}
    rows = posterior_rows(found, dataset)
    save_fit(found, folder, overwrite=True, data=rows, recipe=prepared.recipe, extra=extra)
    shutil.rmtree(require_plain_folder(folder, RunFolder.CHECKPOINT), ignore_errors=True)
    return RunFolder(folder).names()


# back from a run folder


@dataclass(frozen=True)
class Opened:
    """A run that was read back."""

    fit: Fit
    plan: Plan
    scale: Scale | None
    image_shape: tuple[int, ...] | None

    def dataset(self, source: str | None = None) -> Dataset:
        """The data of the run, or another source, in the units that the run was fitted in."""
        dataset = open_source(source or self.plan.data)
        return self.scale.apply(dataset) if self.scale else dataset


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
        source = _source_in(read_config(saved), folder)
        plan = _plan_in(source)
        scale = Scale(source["scale"]["mean"], source["scale"]["sd"]) if source.get("scale") else None
        shape = tuple(source["image_shape"]) if source.get("image_shape") else None
        if not is_pair_file(plan.target):
            if pair is not None:
                raise ValueError(f"{folder}: a run of the recipe {plan.target}; leave out --pair")
            return Opened(load_saved(saved), plan, scale, shape)
        if pair is None:
            raise ValueError(f"{folder}: a run of a pair from a file; name it again with --pair {plan.target}")
        model, guide = load_pair_function(pair)(open_source(data or plan.data).train)
        return Opened(load_saved(saved, model, guide), plan, scale, shape)
