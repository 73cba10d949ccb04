"""How a run ends: what is raised stays what is raised, and has the fit as it is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ppl_vae.storage import WriteError
from ppl_vae.training.nonfinite import NonFiniteError

if TYPE_CHECKING:
    from ppl_vae.training.trainer import Trainer

__all__ = ["finish", "with_the_fit"]


@contextmanager
def with_the_fit(fit: Any) -> Iterator[None]:
    """Give the fit to the errors that have a place for it."""
    try:
        yield
    except (NonFiniteError, WriteError) as error:
        error.fit = fit
        raise


def finish(run: Trainer, ending: BaseException | None) -> None:
    """Tell the callbacks, and save once more; ``ending`` is the error that has ended the run, and stays what is raised.

    A state that cannot be saved then is a note to it.
    """
    try:
        for callback in run.callbacks:
            callback.on_end(run)
    finally:
        if run.step and run._whole and not isinstance(ending, WriteError):  # that was tried for long enough
            try:
                run.save()
            except WriteError as error:
                if ending is None:
                    raise
                ending.add_note(f"and the state could not be saved: {error}")
