"""The progress bar: ELBO and rate, in a terminal or a notebook; silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def is_watched() -> bool:
    """Does a person see what is printed: in a terminal, or a notebook?"""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


@contextmanager
def stage(what: str, total: int, *, unit: str = "row", enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar over one part of the work after a fit; it goes away at the end.

    Yields:
        what to call with how much is done.
    """
    if not (enabled and is_watched()):
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, leave=False) as bar:
        yield lambda done: bar.update(done - bar.n) and None


class Progress:
    """A bar over steps. ``enabled`` False, or no terminal and no notebook: nothing is printed."""

    def __init__(self, total: int | None, initial: int, *, enabled: bool) -> None:
        self._bar: Any = None
        if enabled and is_watched():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=initial, unit="step", dynamic_ncols=True, leave=True)

    @property
    def is_shown(self) -> bool:
        """Is there a bar?"""
        return self._bar is not None

    def show(self, step: int, row: dict[str, Any] | None) -> None:
        """Advance to ``step``, with the latest row of the history."""
        if self._bar is None:
            return
        if row is not None:
            self._bar.set_postfix({"epoch": row["epoch"] + 1, "ELBO": f"{row['elbo']:.3f}"}, refresh=False)
        self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Show what a step waits for, before the bar; an empty string takes it away."""
        if self._bar is not None:
            self._bar.set_description(text or None)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
