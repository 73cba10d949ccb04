"""``ppl-vae fit``: from a plan to a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.commands.plan import Plan, recipe_of
from ppl_vae.commands.posterior import DRAWS, posterior_of
from ppl_vae.recipes.base import Facts, Recipe
from ppl_vae.recipes.figures import Judged, figures
from ppl_vae.recipes.pair_file import blame, is_pair_file, load_pair_function
from ppl_vae.recipes.registry import record
from ppl_vae.recipes.scale import Scale, refuse_few_values
from ppl_vae.recipes.sources import open_source
from ppl_vae.storage import RunFolder, require_plain_folder, write_json

if TYPE_CHECKING:
    from ppl_vae.data import Dataset
    from ppl_vae.recipes.report import Report
    from ppl_vae.result import Fit


@dataclass(frozen=True)
class Prepared:
    """A pair and its data, ready to be fitted.

    Args:
        plan: what was asked for.
        model, guide: the pair.
        dataset: its data, in their own units.
        rows: what of the data is fitted, as the model sees it.
        objective: what is maximized; None for the ELBO.
        note: what must be known of the fit, in a sentence; or nothing.
        scale: between the units of the data and those of the model.
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
        dataset = self.dataset
        return {
            **asdict(self.plan),
            "scale": asdict(self.scale) if self.scale else None,
            "image_shape": list(dataset.image_shape) if dataset.image_shape else None,
            "feature_names": list(dataset.feature_names) if dataset.feature_names else None,
            "label_names": list(dataset.label_names) if dataset.label_names else None,
        }


def prepare(plan: Plan) -> Prepared:
    """Open the data and build the pair."""
    from ppl_vae._random import fold, isolated_rng

    recipe = recipe_of(plan.target)
    build = _recipe_builder(plan, recipe) if recipe else _file_builder(plan)
    dataset = open_source(plan.data, **plan.reading)
    with isolated_rng(fold(plan.seed, "build")):
        return build(dataset)


def _file_builder(plan: Plan) -> Callable[[Dataset], Prepared]:
    function = load_pair_function(plan.target)
    return lambda dataset: Prepared(plan, *function(dataset.train), dataset, dataset.train)


def _recipe_builder(plan: Plan, recipe: Recipe[Any]) -> Callable[[Dataset], Prepared]:
    def build(dataset: Dataset) -> Prepared:
        if recipe.continuous:
            refuse_few_values(dataset, recipe.name)
        scale = Scale.of(dataset) if recipe.standardize else None
        seen = scale.apply(dataset) if scale else dataset
        facts, settings = Facts.of(seen), plan.settings(recipe)
        model, guide = recipe.build(facts, settings)
        return Prepared(
            plan,
            model,
            guide,
            scale.described(dataset) if scale else dataset,
            recipe.rows(seen, settings, plan.seed),
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
    from ppl_vae.training.processes import require_one_process

    require_one_process("ppl-vae fit")
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
        with _rows_by_name(prepared):
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
    found.pair.units = prepared.scale  # from here on data come and go in their own units
    return found


@contextmanager
def _rows_by_name(prepared: Prepared) -> Iterator[None]:
    """Rows that are not those of the run are called by the file, and its columns, that they came from."""
    from ppl_vae.training.checkpoint import ResumeError

    try:
        yield
    except ResumeError as error:
        columns = prepared.dataset.feature_names or ()
        raise ResumeError.of(error.different, rows=f"the rows of {prepared.plan.data}", columns=columns) from None


def save(
    found: Fit, prepared: Prepared, folder: Path, report: Report | None, *, command: str, draws: int = DRAWS
) -> list[str]:
    """Write the run folder; returns the names of the files.

    Args:
        found: the fit.
        prepared: what was fitted.
        folder: where to.
        report: its numbers; None leaves out the posterior, the figures and the numbers of the model card.
        command: as it was typed.
        draws: in ``posterior.nc``; 0 for no such file.
    """
    from ppl_vae.saving import save_fit

    if report is None:
        save_fit(found, folder, overwrite=True, recipe=prepared.recipe)
    else:
        found.config["results"] = report.numbers()
        options = _told(found, prepared, report, command, draws)
        save_fit(found, folder, overwrite=True, recipe=prepared.recipe, **options)
    shutil.rmtree(require_plain_folder(folder, RunFolder.CHECKPOINT), ignore_errors=True)
    return RunFolder(folder).names()


def _told(found: Fit, prepared: Prepared, report: Report, command: str, draws: int) -> dict[str, Any]:
    """The figures, the model card and the posterior, as :func:`ppl_vae.saving.save_fit` takes them."""
    from ppl_vae.recipes.report import model_card

    dataset, recipe = prepared.dataset, recipe_of(prepared.plan.target)
    own = recipe.panels(found, dataset) if recipe else {}
    pictures = figures(found, dataset, own, judged=_judged(report, dataset))
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
    options: dict[str, Any] = {"extra": {**pictures, RunFolder.README: card}}
    if draws:
        posterior = posterior_of(found, dataset, draws)
        options |= {"data": posterior.rows, "posterior": posterior.options}
    return options


def _judged(report: Report, dataset: Dataset) -> Judged:
    """Log p(x) of the rows that the verdict is about."""
    part = list(report.parts)[-1]
    names, index = dataset.index_of(part), report.efforts[part].index
    return Judged(report.parts[part].evidence.value, [names[i] for i in index])
