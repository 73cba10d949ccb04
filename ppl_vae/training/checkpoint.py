"""Where the state of a run is kept: when it is due, how it is written and read back, and whose it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_vae.storage import RunFolder, StorageError, load_tree, locked, require_plain_name, save_tree
from ppl_vae.training.state_form import FORMATS, require_state

__all__ = ["STATE_FORMAT", "Checkpoint", "ResumeError", "read_state", "require_same", "saved_state", "taking_back"]

STATE_FORMAT = FORMATS[-1]
LATER = ("rows", "sampler", "validation")
"""What earlier builds did not write of a run, none of it: a state without the first is one of theirs."""
PATIENCE = 10.0
"""Seconds between two checkpoints of a run whose epochs are single steps, where nobody says otherwise."""


class ResumeError(ValueError):
    """A checkpoint belongs to another run than the one that was asked for."""


class Checkpoint:
    """The file of a run's state, and when it is written.

    Args:
        path: the file; None writes nothing.
        every: steps between two; ``every_seconds``: seconds between two, looked at after each epoch, and once in
            50 steps at the least. Default: after each epoch; where an epoch is a single step, every 10 seconds.
        per_epoch: steps of an epoch.

    Raises:
        ValueError: both are given, or one is out of range.
    """

    def __init__(
        self, path: Path | None, *, every: int | None = None, every_seconds: float | None = None, per_epoch: int = 1
    ) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"fit: every must be a whole number of steps, at least 1, got {every!r}")
        if every_seconds is not None and not (isinstance(every_seconds, int | float) and every_seconds > 0):
            raise ValueError(f"fit: every_seconds must be positive, got {every_seconds!r}")
        if every is not None and every_seconds is not None:
            raise ValueError("fit: give every= (steps) or every_seconds=, not both")
        if path is not None and per_epoch == 1 and every is None and every_seconds is None:
            every_seconds = PATIENCE
        self.path, self.every, self.every_seconds = path, every, every_seconds
        self._written = time.monotonic()

    @property
    def watches_epochs(self) -> bool:
        """Is there something to write after each epoch?"""
        return self.path is not None and self.every is None and self.every_seconds is None

    def next_due(self, step: int) -> float:
        """The number of steps in all, above ``step``, with which it is due; infinite where steps do not decide."""
        return math.inf if self.path is None or self.every is None else step + self.every - step % self.every

    def is_due(self, step: int, position: int) -> bool:
        """Is it to be written after ``step`` steps in all, ``position`` of them in this epoch?"""
        if self.path is None:
            return False
        if self.every_seconds is not None:
            return time.monotonic() - self._written >= self.every_seconds
        return position == 0 if self.every is None else step % self.every == 0

    def alone(self) -> AbstractContextManager[None]:
        """Let no other run write there for the time.

        Raises:
            FolderInUse: one does; the message says which process.
        """
        return nullcontext() if self.path is None else locked(self.path.parent)

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file, atomically."""
        if self.path is not None:
            save_tree(self.path, state)
            self._written = time.monotonic()


def read_state(path: Path) -> dict[str, Any]:
    """The state in a run folder, whose weights may be those of its model file.

    Raises:
        StorageError: it is damaged, of a layout that is not known, or the weights that it speaks of are not there.
    """
    require_plain_name(path.parent, path.name)
    state = load_tree(path)
    _require_known(state, path)
    return saved_state(RunFolder(path.parent)) if state.get("weights_apart") else state


def saved_state(run: RunFolder) -> dict[str, Any]:
    """The state of the last save, whole: its manifest vouches that state and weights belong together."""
    path = run.path / RunFolder.STATE
    with run.snapshot([RunFolder.STATE, RunFolder.MODEL]) as saved:
        state: dict[str, Any] = saved.read_tree(RunFolder.STATE)
        _require_known(state, path)
        if not state.get("weights_apart"):
            return state
        weights = saved.read_tree(RunFolder.MODEL)
    whole = {**weights, **state["tensors"]} if isinstance(weights, dict) else weights
    return require_state({**state, "tensors": whole, "weights_apart": False}, path, of_a_run=True)


@contextmanager
def taking_back(path: Path) -> Iterator[None]:
    """What of a state cannot be taken back (an optimizer's tensors, a callback's numbers) is blamed on its file."""
    try:
        yield
    except (ResumeError, StorageError):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        problem = f"it cannot be taken back by this run ({type(error).__name__}: {error})"
        raise StorageError(path, problem) from error


def _require_known(state: Any, path: Path) -> None:
    if not isinstance(state, dict) or state.get("format") not in FORMATS:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise StorageError(path, f"a state of format {' or '.join(map(str, FORMATS))} is required, got {found}")
    require_state(state, path, of_a_run=True)


def require_same(state: dict[str, Any], fingerprint: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise :class:`ResumeError` if the state is of a run with another fingerprint, or tensors of other shapes."""
    shapes = {name: tensor for name, tensor in state["tensors"].items() if name in tensors or not _is_buffer(name)}
    saved, present = {**state["fingerprint"], **_shapes(shapes)}, {**fingerprint, **_shapes(tensors)}
    if LATER[0] not in saved:
        present = {key: value for key, value in present.items() if key not in LATER}
    different = {k: (saved.get(k), present.get(k)) for k in {**saved, **present} if saved.get(k) != present.get(k)}
    if different:
        what = "; ".join(f"{key}: saved {was!r}, now {now!r}" for key, (was, now) in sorted(different.items()))
        raise ResumeError(f"resume: the checkpoint is of another run ({what})")


def _is_buffer(name: str) -> bool:
    """Earlier builds wrote buffers that are not persistent too; what is left of them is passed over."""
    return name.startswith("buffer.")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {f"the shape of {name}": list(tensor.shape) for name, tensor in tensors.items()}
