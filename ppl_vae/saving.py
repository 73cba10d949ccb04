"""What a run folder holds of a fit, and how a fit is made of it again. Nothing read from it is imported or executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.pair import Pair
from ppl_vae.pair.parameters import buffers_of
from ppl_vae.storage import RunFolder, Snapshot, StorageError, environment
from ppl_vae.storage.form import (
    anything,
    each,
    finite,
    flag,
    kind,
    maybe,
    number,
    one_of,
    positive,
    record,
    require_form,
    table,
    text,
    whole,
)

CONFIG_FORMAT = 1

POSTERIOR = {"num_samples": 100, "num_predictive": 10}
"""How many draws go into ``posterior.nc``."""


def save_fit(
    fit: Any,
    folder: Path,
    *,
    overwrite: bool = False,
    data: Any = None,
    posterior: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write the run folder of a fit, all files together.

    Args:
        fit: a :class:`~ppl_vae.result.Fit` (which calls this).
        data: rows whose posterior goes into ``posterior.nc`` (the caller keeps them few). In the file values are of
            32 bits; log densities keep 64.
        posterior: options of ``to_inference_data`` for it; by default 100 draws (it was 1000 in earlier versions), and
            10 of the predictive groups.
        recipe: plain fields from which ``ppl_vae.load`` builds the pair again.
        extra: further files by name, as ``RunFolder.write`` takes them.

    Raises:
        FileExistsError: the folder holds a run and ``overwrite`` is False.
        FolderInUse: another process is writing there, and has not ended in 10 seconds.
        WriteError: the disk is full, say; what was in the folder is whole.
    """
    run = RunFolder(folder).claim(overwrite=overwrite)
    with run.alone():
        run.claim(overwrite=overwrite)  # somebody may have saved here meanwhile
        run.write(_files(fit, data, posterior, recipe, extra), keep=False)
    return folder


def _files(
    fit: Any,
    data: Any,
    posterior: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    weights = {name: tensor.detach() for name, tensor in tensors_of(fit).items()}
    files: dict[str, Any] = {
        RunFolder.CONFIG: _config(fit, recipe),
        RunFolder.MODEL: weights,
        RunFolder.HISTORY: fit.history.to_csv(index=False),
        RunFolder.ENVIRONMENT: environment(),
        RunFolder.README: _card(fit),
    }
    files[RunFolder.STATE] = _state(fit, weights)
    if data is not None:
        files[RunFolder.POSTERIOR] = _posterior_writer(fit, data, {**POSTERIOR, **(posterior or {})})
    return {**files, **(extra or {})}


def _state(fit: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of the run. Weights stand once in a folder: those that are the model file's own are left to it.

    Where a callback has given the pair other parameters (those of the best epoch), the state has its own.
    """
    if not fit.has_run:
        return {"template": fit.template_state(), "history": {"table": fit.record.table.state()}}
    state = fit.trainer.state()
    apart = {name: tensor for name, tensor in state["tensors"].items() if not _is_in(weights, name, tensor)}
    return {**state, "weights_apart": True, "tensors": apart}


def _is_in(weights: Mapping[str, Tensor], name: str, tensor: Tensor) -> bool:
    return name in weights and weights[name].dtype == tensor.dtype and torch.equal(weights[name], tensor)


def tensors_of(pair: Pair) -> dict[str, Tensor]:
    """Every parameter, trained or not, and buffer of a pair by name, live."""
    buffers = {f"buffer.{name}": buffer for name, buffer in pair.buffers_by_name().items()}
    return {**pair.parameters_by_name(), **buffers, **pair.frozen_by_name()}


def _config(fit: Any, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    leaves, group = fit.parameters.leaves, fit.parameters.group
    groups = {name: {"group": group[name], "shape": list(leaf.shape)} for name, leaf in leaves.items()}
    return {
        "format_version": CONFIG_FORMAT,
        "recipe": None if recipe is None else dict(recipe),
        "fit": {**_placement(fit), **fit.config},
        "run": {"ended": fit.ended, "steps": fit.steps, "epochs": fit.epochs, "seconds": fit.seconds},
        "parameters": groups,
        "latents": {name: list(site.event_shape) for name, site in fit.latents.items()},
    }


def _placement(fit: Any) -> dict[str, Any]:
    return {"dtype": str(fit.dtype).removeprefix("torch."), "data_plate": fit.data_plate}


def _card(fit: Any) -> str:
    lines = "\n".join(f"- {key}: {value}" for key, value in fit.summary().items())
    return f"# {fit.config.get('model', 'A fit')}\n\n{lines}\n"


def _posterior_writer(fit: Any, data: Any, options: Mapping[str, Any]) -> Callable[[Path], None]:
    from ppl_vae._arviz import compacted, to_netcdf

    return partial(to_netcdf, compacted(fit.to_inference_data(data, **options)))


def read_config(saved: Snapshot) -> dict[str, Any]:
    """``config.json``, checked.

    Raises:
        StorageError: it is missing, damaged, or of another format.
    """
    config = saved.read_json(RunFolder.CONFIG)
    path = saved.path / RunFolder.CONFIG
    if not isinstance(config, dict) or config.get("format_version") != CONFIG_FORMAT:
        found = config.get("format_version") if isinstance(config, dict) else type(config).__name__
        raise StorageError(path, f"format {CONFIG_FORMAT} of a run is required, got {found}")
    require_form(config, CONFIG, path)
    return config


def read_weights(saved: Snapshot, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every weight by name, of the shapes that the config speaks of.

    Raises:
        StorageError: the file is damaged or holds something else, or the two files are of different pairs.
    """
    path, weights = saved.path / RunFolder.MODEL, saved.read_tree(RunFolder.MODEL)
    require_form(weights, table(kind("a tensor", lambda value: isinstance(value, Tensor))), path)
    for name, entry in config["parameters"].items():
        found = list(weights[name].shape) if name in weights else None
        if found != entry["shape"]:
            problem = f"parameters.{name}.shape: {found} is required, as in {RunFolder.MODEL}, got {entry['shape']}"
            raise StorageError(saved.path / RunFolder.CONFIG, problem)
    return dict(weights)


def _not_persistent(pair: Pair) -> set[str]:
    """Buffers that earlier builds wrote, and whose modules do not keep them."""
    every = {f"buffer.{name}" for name in buffers_of(pair.model, pair.guide, every=True)}
    return every - {f"buffer.{name}" for name in pair.buffers_by_name()}


def put_weights(pair: Pair, saved: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights that were read from ``path`` into the pair's own tensors.

    Raises:
        StorageError: a weight is missing, unknown, of another shape or dtype than the pair's, or nothing but NaN.
    """
    live = tensors_of(pair)
    missing, unknown = sorted(set(live) - set(saved)), sorted(set(saved) - set(live) - _not_persistent(pair))
    if missing or unknown:
        raise StorageError(path, f"it is of another pair: no weights for {missing}, unknown {unknown}")
    for name, tensor in live.items():
        if saved[name].shape != tensor.shape:
            raise StorageError(path, f"{name}: shape {tuple(tensor.shape)} is required, got {tuple(saved[name].shape)}")
        if saved[name].dtype != tensor.dtype:
            raise StorageError(path, f"{name}: {tensor.dtype} is required, got {saved[name].dtype}")
        if _is_nan(saved[name]) and not _is_nan(tensor):
            raise StorageError(path, f"{name}: numbers are required, got nothing but NaN")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])


def _is_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0 and bool(tensor.isnan().all())


# what config.json must look like: what no reader uses is looked at too, for a person reads it

SOURCE = record(
    {
        **dict.fromkeys(("target", "data"), text),
        **dict.fromkeys(("epochs", "seed"), whole()),
        **dict.fromkeys(("lr", "weight_decay"), finite),
        **dict.fromkeys(("latent_dim", "num_latents", "num_classes", "num_labels"), maybe(whole(1))),
        **dict.fromkeys(("num_components", "num_layers"), maybe(whole(1))),
        "batch_size": whole(1),
        "scale": maybe(record(mean=each(finite), sd=each(positive))),
        "image_shape": maybe(each(whole(1))),
        **dict.fromkeys(("columns", "drop"), each(text)),
        **dict.fromkeys(("label", "index"), maybe(text)),
        "grey": flag,
        **dict.fromkeys(("feature_names", "label_names"), maybe(each(text))),
    }
)
CERTIFICATE = record(
    lines=each(
        record(
            {"advice": text},
            **dict.fromkeys(("what", "found", "asked"), text),
            holds=maybe(flag),
            about=one_of("optimum", "posterior"),
        )
    ),
    numbers=table(maybe(finite)),
    remarks=each(text),
)
RUNG = record(
    {
        **dict.fromkeys(("name", "guide", "why"), text),
        **dict.fromkeys(("elbo", "elbo_error", "log_evidence", "khat"), maybe(finite)),
        "seconds": finite,
        "given": maybe(flag),
    }
)
_fit = record(
    {
        **dict.fromkeys(("model", "guide", "objective", "schedule", "optimizer", "device", "dtype"), text),
        **dict.fromkeys(("lr", "e_lr", "m_lr"), positive),
        "clip_norm": maybe(positive),
        "batch_size": maybe(whole(1)),
        "num_data": whole(),
        "seed": kind("a whole number", lambda value: type(value) is int),
        "data_plate": maybe(text),
        "source": SOURCE,
        "results": table(table(number)),
        "certificate": maybe(CERTIFICATE),
        "way": text,
        "rungs": each(RUNG),
        "until": text,
        "gain_tol": positive,
    }
)
_parameter = record(group=one_of("theta", "phi", "shared"), shape=each(whole()))
CONFIG = record(
    format_version=whole(),
    recipe=maybe(record(name=text, facts=table(anything), settings=table(anything))),
    fit=_fit,
    run=record(ended=text, steps=whole(), epochs=whole(), seconds=finite),
    parameters=table(_parameter),
    latents=table(each(whole())),
)
