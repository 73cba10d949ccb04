"""A process that is killed by SIGKILL again and again while it fits, and goes on each time from its checkpoint.

A script for ``test_killed.py``; torch is imported once, and each life is a fork. ``python victim.py FOLDER PLANS``,
where PLANS is JSON: by the name of a run, a list of deaths. ``["step", 7]`` dies after step 7; ``["os.replace", 2]`` in
the second save of that life, before the new file takes its name; ``["chased", 5]`` is shot from outside some time after
step 5, while it runs on. The last life runs to the end. Printed: one line a life, how it ended and what it left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from runs import Run
from test_resume import RUNS, TOTAL

from ppl_vae import Callback


def die() -> None:
    """As by ``kill -9``: nothing of this process runs after it."""
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(Callback):
    """Dies after a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def on_step(self, run: Any, report: Any) -> None:
        if run.step == self.at:
            die()


class Shout(Callback):
    """Says on a pipe that a step is over."""

    def __init__(self, step: int, pipe: int) -> None:
        self.at, self.pipe = step, pipe

    def on_step(self, run: Any, report: Any) -> None:
        if run.step == self.at:
            os.write(self.pipe, b"x")


def die_in(function: str, call: int) -> None:
    """Let the ``call``-th call of a function of ``os`` be the last thing that this process does."""
    calls = [0]

    def last(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            die()
        return real(*args)

    real = getattr(os, function)
    setattr(os, function, last)


def live(run: Run, folder: Path, death: list[Any] | None, pipe: int) -> None:
    kind, place = death or ("", 0)
    callbacks = run.callbacks()
    if kind == "step":
        callbacks.append(DieAt(place))
    elif kind == "chased":
        callbacks.append(Shout(place, pipe))
    elif kind:
        die_in(kind.removeprefix("os."), place)
    run(TOTAL, folder=folder, resume=True, every=2, callbacks=callbacks)


def main(name: str, folder: Path, plan: list[Any]) -> None:
    RUNS[name](2)  # what torch imports on its first step is imported once, before the forks
    for death in [*plan, None]:
        heard, told = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                live(RUNS[name], folder, death, told)
                code = 0
            finally:
                os._exit(code)
        os.close(told)
        if death and death[0] == "chased" and os.read(heard, 1):
            os.kill(child, signal.SIGKILL)
        os.close(heard)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = sorted(path.name for path in folder.iterdir())
        print(json.dumps({"run": name, "death": death, "code": code, "left": left}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for run_name, deaths in json.loads(sys.argv[2]).items():
        main(run_name, Path(sys.argv[1]) / run_name, deaths)
