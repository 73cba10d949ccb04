"""How a run ends: what is raised stays what is raised, and has the fit as it is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ppl_vae.storage import WriteError
from ppl_vae.training.nonfinite import NonFiniteError

__all__ = ["save_at_the_end", "with_the_fit"]


@contextmanager
def with_the_fit(fit: Any) -> Iterator[None]:
    """Give the fit to the errors that have a place for it."""
    try:
        yield
    except (NonFiniteError, WriteError) as error:
        error.fit = fit
        raise


def save_at_the_end(save: Callable[[], None], ending: BaseException | None) -> None:
    """Save once more, though an error may have ended the run: if that cannot be, it is a note to this error."""
    if isinstance(ending, WriteError):  # it was tried for long enough
        return
    try:
        save()
    except WriteError as error:
        if ending is None:
            raise
        ending.add_note(f"and the state could not be saved: {error}")
