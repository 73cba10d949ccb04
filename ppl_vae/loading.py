"""Bring a fit back from its run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ppl_vae.pair import Pair
from ppl_vae.pair.units import Units
from ppl_vae.result import Fit
from ppl_vae.saving import put_weights, read_config, read_weights
from ppl_vae.storage import RunFolder, Snapshot, StorageError
from ppl_vae.storage.environment import ENVIRONMENT
from ppl_vae.storage.form import require_form
from ppl_vae.training.record import Record
from ppl_vae.training.state_form import require_state


def load(
    folder: str | Path,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    *,
    data: Any = None,
    device: torch.device | str = "cpu",
) -> Fit:
    """Load a fit: the weights go into ``model`` and ``guide``, or into a pair that the folder's recipe builds.

    Loading runs no code from the folder: it holds numbers and names, and a name is only looked up among the recipes.
    While another process saves there, what is loaded is one of its saves, whole.

    A recipe may see its data on another scale than they have (columns standardized, grey levels as fractions). The fit
    then takes and gives data in their own units, as the commands do: ``encode``, ``elbo``, ``log_evidence`` and
    whatever else takes rows is given them as they are in the file, and ``sample``, ``decode``, ``reconstruct`` and the
    predictive groups of ``to_inference_data`` are in these units too. Densities are those of the scale of the model,
    the numbers that ``ppl-vae evaluate`` and the card of the run say: per standard deviation of the columns. Per unit
    of the columns log p(x) is less by the sum of their log standard deviations.

    Args:
        folder: what ``fit.save`` or ``ppl-vae fit`` wrote.
        model, guide: the pair, of the same structure as the saved one; leave both out for a recipe.
        data: rows like those of the fit, for pairs whose sites or parameters cannot be found from a row of the saved
            template.
        device: where to put it.

    Raises:
        StorageError: a file is missing, damaged, a pickle, or of another pair; it is named.
        ValueError: a pair is required and was not given.
    """
    with RunFolder(folder).snapshot() as saved:
        return load_saved(saved, model, guide, data=data, device=device)


def load_saved(
    saved: Snapshot,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    *,
    data: Any = None,
    device: torch.device | str = "cpu",
) -> Fit:
    """:func:`load`, of one save that is held while others may follow."""
    saved.verify()
    config = read_config(saved)
    if RunFolder.ENVIRONMENT in saved:
        require_form(saved.read_json(RunFolder.ENVIRONMENT), ENVIRONMENT, saved.path / RunFolder.ENVIRONMENT)
    if (model is None) != (guide is None):
        raise ValueError("load: give both model and guide, or neither")
    weights = read_weights(saved, config)
    state_file = saved.path / RunFolder.STATE
    state = require_state(saved.read_tree(RunFolder.STATE), state_file) if RunFolder.STATE in saved else None
    if model is None or guide is None:
        model, guide = _from_recipe(config, saved, sum(tensor.numel() for tensor in weights.values()))
        blamed = state_file if data is None else None
    else:
        blamed = None
    with _blamed_on(blamed, _from_folder(config, state if data is None else None, saved)):
        pair = Pair(
            model, guide, data_plate=config["fit"].get("data_plate"), device=device, dtype=_dtype(config, saved)
        )
        pair.initialize(_template(data, state, saved), seed=int(config["fit"].get("seed", 0)))
    put_weights(pair, weights, saved.path / RunFolder.MODEL)
    pair.units = _units(config, saved)
    return Fit(pair, Record.saved(config["run"], state), dict(config["fit"]))


@contextmanager
def _blamed_on(path: Path | None, known: str) -> Iterator[None]:
    """What the pair is run with that comes from the folder, ``known``, is said beside what goes wrong there.

    Where all comes from there (``path``), it is the fault of the folder; where the caller has given the pair or the
    rows, it may be his, and the error stays what it is.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if path is None:
            error.add_note(f"load: of the folder are {known}; are they of this pair?")
            raise
        problem = f"the pair cannot be run on its rows ({type(error).__name__}: {error}); of the folder are {known}"
        raise StorageError(path, problem) from error


def _from_folder(config: dict[str, Any], state: Any, run: Snapshot) -> str:
    """What a pair is run with when it is loaded, each with its file and key."""
    known = [f"{run.path / RunFolder.CONFIG}: fit.data_plate is {config['fit'].get('data_plate')!r}"]
    if state is not None and state.get("template"):
        template = state["template"]
        tensors = [*template["args"], *template["kwargs"].values()]
        shown = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in tensors)
        known.append(f"{run.path / RunFolder.STATE}: template has rows of shape {shown}")
    return "; ".join(known)


def _units(config: dict[str, Any], run: Snapshot) -> Units | None:
    """The scale on which the command line has fitted its data."""
    from ppl_vae.recipes.scale import Scale

    source = config["fit"].get("source")
    scale = source.get("scale") if isinstance(source, dict) else None
    if not scale:
        return None
    try:
        return Scale.saved(scale)
    except ValueError as error:
        raise StorageError(run.path / RunFolder.CONFIG, str(error)) from None


def _template(data: Any, state: Any, run: Snapshot) -> Any:
    if data is not None:
        return data
    if state is None or not state.get("template"):
        raise StorageError(run.path / RunFolder.STATE, "no rows to run the pair on; give load data=")
    template = state["template"]
    rows = tuple(template["args"])
    if template["kwargs"] and not rows:
        return dict(template["kwargs"])
    return rows or None  # a pair without data is run on none


def _from_recipe(config: dict[str, Any], run: Snapshot, num_weights: int) -> tuple[Any, Any]:
    from ppl_vae.recipes import rebuild

    if not config.get("recipe"):
        raise ValueError(f"load: {run.path} is not of a recipe; give the model and the guide")
    try:
        return rebuild(config["recipe"], num_weights=num_weights)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise StorageError(run.path / RunFolder.CONFIG, f"no pair can be built of it ({error})") from error


_DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def _dtype(config: dict[str, Any], run: Snapshot) -> torch.dtype:
    name = config["fit"].get("dtype", "float32")
    if name not in _DTYPES:
        raise StorageError(run.path / RunFolder.CONFIG, f"dtype must be one of {', '.join(_DTYPES)}, got {name!r}")
    return _DTYPES[name]
