"""A way back: a copy of all that steps change, taken once in many steps; what is between is reached by making steps.

The noise and the rows of a step are functions of its place. So the state before any later step is the copy, and the
steps between made once more, to the bit; and no step has to be copied by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._private import version

if TYPE_CHECKING:
    from ppl_vae.training.cursor import Cursor
    from ppl_vae.training.history import History
    from ppl_vae.training.step import Step

__all__ = ["CHECK_EVERY", "Touched", "Undo", "WayBack", "copied"]

CHECK_EVERY = 50
"""Steps after which the state is looked at, and copied for the way back."""


class Undo:
    """What steps change, as it was at one place of a run."""

    def __init__(self, step: Step, cursor: Cursor, history: History) -> None:
        self.place = cursor.place
        self._tensors = {name: tensor.detach().clone() for name, tensor in step.tensors().items()}
        self._state = copied(step.state())
        self._mark = history.mark()

    def restore(self, step: Step, cursor: Cursor, history: History) -> None:
        """Put everything back, in place."""
        with torch.no_grad():
            for name, tensor in step.tensors().items():
                tensor.copy_(self._tensors[name])
        step.load_state(copied(self._state))
        cursor.go_to(self.place)
        history.back_to(self._mark)


class WayBack:
    """The latest copy of a run, and the way from it to the places after it.

    Args:
        make_again: makes the next step once more, and closes its epoch if it is over.
    """

    def __init__(self, step: Step, cursor: Cursor, history: History, make_again: Callable[[], None]) -> None:
        self._step, self._cursor, self._history, self._make_again = step, cursor, history, make_again
        self._undo: Undo | None = None

    def renew(self) -> int:
        """Take a copy if there is none that is young enough; the step up to which it serves. All must be well here."""
        if self._undo is None or self._cursor.step - self._undo.place[0] >= CHECK_EVERY:
            self._undo = Undo(self._step, self._cursor, self._history)
        return self._undo.place[0] + CHECK_EVERY

    def forget(self) -> None:
        """Something was changed that making steps does not change again."""
        self._undo = None

    @property
    def begin(self) -> int:
        """The step before which the copy was taken."""
        assert self._undo is not None
        return self._undo.place[0]

    def go_to(self, step: int) -> None:
        """To the place before ``step``; to that of the copy, if this is broken off."""
        try:
            self._restore()
            while self._cursor.step < step:
                self._make_again()
        except BaseException:
            self._restore()
            raise

    def go_to_failure(self) -> int:
        """To the place before the first step whose numbers were not finite, which is returned."""
        end, bad = self._cursor.step, self.begin
        self._restore()
        while self._cursor.step < end and not self._step.failed():
            bad = self._cursor.step
            self._make_again()
        self.go_to(bad)
        return bad

    def _restore(self) -> None:
        assert self._undo is not None
        self._undo.restore(self._step, self._cursor, self._history)


class Touched:
    """Tells whether somebody has changed what a step changes since this was made: a callback, by hand.

    Changes are seen that torch counts (in place, or another tensor in the place of one); not those by way of ``.data``.
    """

    def __init__(self, step: Step) -> None:
        self._step, self._seen = step, self._look(step)

    @staticmethod
    def _look(step: Step) -> list[Any]:
        return [(tensor.data_ptr(), version(tensor)) for tensor in step.tensors().values()] + [step.row()]

    def by_somebody(self) -> bool:
        """Has it been changed?"""
        return self._look(self._step) != self._seen


def copied(tree: Any) -> Any:
    """A plain tree whose tensors are copies."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list | tuple) else tree
