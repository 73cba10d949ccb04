"""Ctrl-C ends a run between two steps, never inside one."""

from __future__ import annotations

import _signal  # what signal.signal calls, without turning numbers into enums and back
import signal
import threading


class Interrupt:
    """Set when the user has asked once for an end."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False


class deferred_interrupt:
    """Catch the first SIGINT in a flag; a second one raises at once. Only the main thread can do this."""

    __slots__ = ("_before", "_flag")

    def __enter__(self) -> Interrupt:
        self._flag = Interrupt()
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = _signal.signal(signal.SIGINT, self._handle)
        return self._flag

    def _handle(self, signum: int, frame: object) -> None:
        if self._flag.requested:
            raise KeyboardInterrupt
        self._flag.requested = True

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            _signal.signal(signal.SIGINT, self._before)
