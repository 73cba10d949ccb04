"""``ppl-vae fit --resume``: the plan of the run in a folder, to be gone on with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ppl_vae.commands.claim import require_run
from ppl_vae.commands.opening import required_of_plan, source_in
from ppl_vae.commands.plan import READING, SIZES, Plan, option
from ppl_vae.storage import (
    RunFolder,
    StorageError,
    read_json,
    require_plain_folder,
    require_plain_name,
    save_tree,
    write_json,
)
from ppl_vae.storage.form import require_form


def resumed(plan: Plan, given: Mapping[str, Any], folder: Path) -> Plan:
    """The plan of the run in ``folder``, to be gone on with; only the number of epochs may be another one.

    Raises:
        ValueError: there is nothing to go on with, or an option differs from that of the run.
    """
    require_run(folder)
    checkpoint, run = require_plain_folder(folder, RunFolder.CHECKPOINT), RunFolder(folder)
    cut_off = (checkpoint / RunFolder.CONFIG).exists()
    saved = _saved_plan(checkpoint, run, cut_off)
    for name in ("data", "batch_size", "lr", "weight_decay", "seed", *SIZES, *READING):
        was = getattr(saved, name)
        if given.get(name) not in (None, READING.get(name)) and given[name] != was:
            raise ValueError(
                f"{folder}: the run has {option(name)} {_shown(was)}, got {_shown(given[name])}; leave it out to resume"
            )
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


def _saved_plan(checkpoint: Path, run: RunFolder, cut_off: bool) -> Plan:
    from ppl_vae.saving import SOURCE, read_config

    if not cut_off:
        with run.snapshot([RunFolder.CONFIG]) as saved:
            return Plan.saved(source_in(read_config(saved), run.path))
    path = require_plain_name(checkpoint, RunFolder.CONFIG)
    require_form(source := read_json(path), SOURCE, path)
    if missing := sorted(required_of_plan() - set(source)):
        raise StorageError(path, f"{', '.join(missing)} must be there")
    return Plan.saved(source)


def _shown(value: Any) -> str:
    """The value of an option as it is typed."""
    return (",".join(value) or "of none") if isinstance(value, tuple) else str(value)


def _state_of(checkpoint: Path, run: RunFolder, cut_off: bool) -> dict[str, Any] | None:
    """The state to go on from; None for a run that was cut off before its first checkpoint."""
    from ppl_vae.training.checkpoint import read_state, saved_state

    if not cut_off:
        return saved_state(run)
    file = checkpoint / RunFolder.STATE
    return read_state(file) if os.path.lexists(file) else None


def _same_file(target: str) -> str:
    """A target by what it names, not by how it is spelled."""
    path, colon, function = target.rpartition(":")
    return f"{Path(path).resolve()}:{function}" if colon else target
