"""The library of one program, as far as another process makes it: begun, waited for, given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from ppl_vae.capture.build import Build
from ppl_vae.capture.trace import Graph

WAITING = "compiling a step, once; the next fits reuse it"
"""What is said while a step waits for the compiler."""

_LOG = logging.getLogger("ppl_vae")


class Builds:
    """The process that makes a program's library.

    Args:
        name: of the program.
        say: is told what one waits for; an empty string: for nothing any more.
        asked: has an end been asked for? Then nobody waits.
    """

    def __init__(self, name: str, say: Callable[[str], None], asked: Callable[[], bool] = lambda: False) -> None:
        self._name, self._say, self._asked = name, say, asked
        self._build: Build | None = None
        self._started = 0.0

    def begin(self, graph: Graph, inputs: Sequence[Tensor]) -> float:
        """Begin with the library of this graph, if it is not the one that has begun already; when that was."""
        if self._build is None or not self._build.serves(graph, inputs):
            self._started = time.perf_counter()
            self._build = Build(graph, inputs)
        return self._started

    @property
    def at_work(self) -> bool:
        """Has it not yet ended?"""
        return self._build is not None and not self._build.done

    @property
    def has_ended(self) -> bool:
        """Has it begun, and come to its end?"""
        return self._build is not None and self._build.done

    def wait(self) -> None:
        """Wait for the end of it, and say so.

        Raises:
            KeyboardInterrupt: see :meth:`Build.wait`.
        """
        if self._build is None or self._build.done:
            return
        _LOG.info("%s: %s", self._name, WAITING)
        try:
            self._build.wait(lambda seconds: self._say(f"{WAITING} ({seconds:.0f} s)"), self._asked)
        except BaseException:
            self._build = None
            raise
        finally:
            self._say("")

    def forget(self) -> None:
        """Nobody needs it any more: it is ended."""
        self._build = None
