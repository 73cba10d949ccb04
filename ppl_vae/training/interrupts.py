"""Ctrl-C ends a run between two steps, never inside one; and so does a polite request to end (SIGTERM)."""

from __future__ import annotations

import _signal  # what signal.signal calls, without turning numbers into enums and back
import os
import signal
import threading
from typing import Any


class Interrupt:
    """Set when the user has asked once for an end."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False


class deferred_interrupt:
    """Catch the first SIGINT in a flag; a second one raises at once. Only the main thread can do this.

    Where SIGINT is ignored it stays so: a shell lets a job behind ``&`` in a script ignore the Ctrl-C that is meant for
    the job in front. A handler that Python does not know, and could not put back, stays too.

    Args:
        terminate: treat SIGTERM in the same way, where it would end the process (a caller's own handler stays, and so
            does a caller's wish to ignore it).
    """

    __slots__ = ("_before", "_flag", "_process", "_terminate")

    def __init__(self, *, terminate: bool = False) -> None:
        self._terminate = terminate

    def __enter__(self) -> Interrupt:
        self._flag, self._process = Interrupt(), os.getpid()
        self._before: list[tuple[int, Any]] = []
        if threading.current_thread() is threading.main_thread():
            if _signal.getsignal(signal.SIGINT) not in (_signal.SIG_IGN, None):
                self._catch(signal.SIGINT)
            if self._terminate and _signal.getsignal(signal.SIGTERM) == _signal.SIG_DFL:
                self._catch(signal.SIGTERM)
        return self._flag

    def _catch(self, signum: int) -> None:
        self._before.append((signum, _signal.signal(signum, self._handle)))

    def _handle(self, signum: int, frame: object) -> None:
        if signum == signal.SIGTERM and os.getpid() != self._process:  # a forked worker is to end when it is told to
            _signal.signal(signum, _signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self._flag.requested:
            raise KeyboardInterrupt
        self._flag.requested = True

    def __exit__(self, *error: object) -> None:
        for signum, before in self._before:
            _signal.signal(signum, before)
