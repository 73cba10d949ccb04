"""A library being made by another process, while this one goes on or waits; Ctrl-C is heard at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.capture import backend, cache
from ppl_vae.capture.trace import Graph

_MODULE = "ppl_vae.capture.builder"
_TICK = 0.1  # seconds between two looks at the other process


class Build:
    """A library being made by another process.

    Args:
        graph, inputs: as for :func:`~ppl_vae.capture.backend.compile_graph`, which finds the library when it is done.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        arguments = [tensor.detach() for tensor in (*inputs, *graph.lifted)]
        self._home = backend.library_folder(graph.functional, arguments)
        self._process: subprocess.Popen[bytes] | None = None
        if self._home.exists():
            return
        folder = tempfile.TemporaryDirectory()
        job = Path(folder.name) / "job.json"
        job.write_text(
            json.dumps(
                {
                    "source": graph.functional.graph.python_code("self").src,
                    "arguments": [[list(t.shape), list(t.stride()), str(t.dtype)] for t in arguments],
                    "threads": torch.get_num_threads(),
                    "home": str(self._home),
                }
            )
        )
        # The package may be importable only by this process's path.
        paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        with cache.in_use():
            environment = {**os.environ, "PYTHONPATH": paths}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(job)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is not meant for it
            )
        except OSError:  # no process can be started here: this one compiles
            folder.cleanup()
            return
        self.end = weakref.finalize(self, _end, self._process, folder)

    def serves(self, graph: Graph, inputs: Sequence[Tensor]) -> bool:
        """Is it the library of this graph?"""
        arguments = [tensor.detach() for tensor in (*inputs, *graph.lifted)]
        return backend.library_folder(graph.functional, arguments) == self._home

    @property
    def done(self) -> bool:
        """Has it ended, well or not? If well, ``compile_graph`` finds the library."""
        if self._process is None:
            return True
        if self._process.poll() is None:
            return False
        self.end()
        return True

    def wait(self, say: Callable[[float], None], asked: Callable[[], bool] = lambda: False) -> None:
        """Wait until it has ended.

        Args:
            say: is told now and then for how many seconds one has waited.
            asked: has an end been asked for, before this wait or in it?

        Raises:
            KeyboardInterrupt: an end has been asked for, by ``asked`` or by Ctrl-C, and whoever listens for it has been
                told. The other process has been ended, and nothing of it is left.
        """
        started = time.monotonic()
        try:
            with _listening() as heard:
                while not self.done:
                    if heard or asked():
                        raise KeyboardInterrupt
                    say(time.monotonic() - started)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(_TICK)  # type: ignore[union-attr]
        except BaseException:
            self.end()
            raise


@contextlib.contextmanager
def _listening() -> Iterator[list[int]]:
    """The signals that ask for an end, as they come; each is passed on to the handler that was there."""
    heard: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        asked = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in asked.items() if callable(handler)}

    def handle(number: int, frame: Any) -> None:
        heard.append(number)
        before[number](number, frame)

    try:
        for number in before:
            signal.signal(number, handle)
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    """The library is there, or nobody waits for it any more; the compiler's own children end with the session."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    folder.cleanup()
