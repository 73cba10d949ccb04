"""Where the state of a run is kept: when it is due, how it is written and read back, and whose it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
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
MOST_LISTED = 5  # names of columns in one message
PATIENCE = 10.0
"""Seconds between two checkpoints of a run whose epochs are single steps, where nobody says otherwise."""


class ResumeError(ValueError):
    """A checkpoint belongs to another run than the one that was asked for.

    Attributes:
        different: what differs, by name: what was saved, and what is now.
    """

    different: Mapping[str, tuple[Any, Any]]

    @classmethod
    def of(
        cls, different: Mapping[str, tuple[Any, Any]], *, rows: str = "the rows", columns: Sequence[str] = ()
    ) -> ResumeError:
        """Say what differs; ``rows`` is what the rows are called, ``columns`` what is in them, where that is known."""
        error = cls(f"resume: the checkpoint is of another run ({'; '.join(_in_words(different, rows, columns))})")
        error.different = different
        return error


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
    if saved.get("validation") is None or present.get("validation") is None:  # rows that are looked at move nothing
        saved.pop("validation", None), present.pop("validation", None)
    different = {k: (saved.get(k), present.get(k)) for k in {**saved, **present} if saved.get(k) != present.get(k)}
    if different:
        raise ResumeError.of(different)


def _in_words(different: Mapping[str, tuple[Any, Any]], rows: str, columns: Sequence[str]) -> Iterator[str]:
    """What differs: of rows in words, since their digests say nothing to anybody; of all else what was and what is."""
    digests = [key for key in ("rows", "first_rows") if key in different]
    if digests:
        found = _columns_of(*different[digests[0]]) or columns
        yield f"{rows}{_listed(found)} are not those of the run"
    if "validation" in different:
        yield f"the validation rows{_listed(_columns_of(*different['validation']))} are not those of the run"
    for key, (was, now) in sorted(different.items()):
        if key not in (*digests, "validation"):
            yield f"{key}: saved {was!r}, now {now!r}"


def _columns_of(was: Any, now: Any) -> list[str]:
    """The arguments in which rows differ, where others are the same: a digest begins with name, kind and shape."""
    named = [isinstance(side, list) and all(isinstance(c, list) and len(c) == 4 for c in side) for side in (was, now)]
    if not all(named) or len(was) != len(now):
        return []
    names = [str(new[0]) for old, new in zip(was, now, strict=True) if old != new]
    return names if len(names) < len(now) else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")
    return f" ({'column' if len(names) == 1 else 'columns'} {shown})" if names else ""


def _is_buffer(name: str) -> bool:
    """Earlier builds wrote buffers that are not persistent too; what is left of them is passed over."""
    return name.startswith("buffer.")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {f"the shape of {name}": list(tensor.shape) for name, tensor in tensors.items()}
