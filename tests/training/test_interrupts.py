"""Ctrl-C ends a run between two steps, with what it has; and what it has is enough to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from runs import PER_EPOCH, Run, data, differences, plain, snapshot

import ppl_vae
from ppl_vae import Callback, EarlyStopping
from ppl_vae.training import Trainer
from ppl_vae.training.interrupts import deferred_interrupt

TOTAL = 3 * PER_EPOCH


class Press(Callback):
    """Presses Ctrl-C after a step, or at the end of an epoch: as the terminal does it, or by an exception."""

    def __init__(self, at: str, step: int, how: str) -> None:
        self.at, self.step, self.how = at, step, how

    def on_start(self, run) -> None:
        if self.at == "start":
            self.press()

    def on_step(self, run, report) -> None:
        if self.at == "step" and run.step == self.step:
            self.press()

    def on_epoch(self, run, row) -> None:
        if self.at == "epoch" and run.step == self.step:
            self.press()

    def press(self) -> None:
        if self.how == "exception":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)


PLACES = {"in an epoch": ("step", 6), "at its last step": ("step", 8), "between epochs": ("epoch", 8)}


@pytest.mark.parametrize("how", ["signal", "exception"])
@pytest.mark.parametrize("place", PLACES)
def test_an_interrupted_run_ends_with_what_it_has_and_goes_on(place, how, tmp_path):
    """Also for a callback that stands behind the one that was interrupted: it has seen the same epochs."""
    at, step = PLACES[place]
    run = Run(callbacks=lambda: [EarlyStopping(patience=9, metric="elbo")])
    whole = run(TOTAL)
    press, early = Press(at, step, how), EarlyStopping(patience=9, metric="elbo")
    fit = run(TOTAL, folder=tmp_path, callbacks=[press, early])
    assert (fit.ended, fit.steps, fit.epochs) == ("interrupted", step, step // PER_EPOCH)
    assert "interrupted after" in repr(fit)
    assert fit.elbo(data()).isfinite().all()
    assert early.best_epoch >= step // PER_EPOCH - 1 - 9
    assert early.best == fit.history["elbo"].max()
    assert differences(snapshot(run(step)), snapshot(fit)) == []
    cut = run(TOTAL, folder=tmp_path, resume=True, start=1)
    assert cut.ended == "completed"
    assert differences(snapshot(whole), snapshot(cut)) == []
    fit.resume(steps=TOTAL - step)  # nobody presses again: the callback's step has passed
    assert fit.ended == "completed"
    assert differences(snapshot(whole), snapshot(fit)) == []


def test_an_interrupt_before_the_first_step():
    assert Run(callbacks=lambda: [Press("start", 0, "exception")])(TOTAL).ended == "interrupted"


def test_a_run_that_nobody_watches_stops_within_a_step():
    """No callback asks for it: the flag is looked at after each step, not at each check."""

    def transform(x):
        calls.append(len(x))
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    calls: list[int] = []
    fit = Run()(TOTAL * 20, transform=transform)
    assert fit.ended == "interrupted"
    assert fit.steps <= 7


class TornSGD(torch.optim.SGD):
    """Ctrl-C, pressed twice, hits in the middle of the update: one half of the parameters has moved."""

    fuse = 9

    def step(self, closure=None):
        self.calls = getattr(self, "calls", 0) + 1
        result = super().step(closure)
        if self.calls == type(self).fuse:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)
            raise KeyboardInterrupt
        return result


def test_a_torn_step_is_never_saved(tmp_path, monkeypatch):
    run = Run(em={"optimizer": TornSGD, "lr": 0.01})
    torn = run(TOTAL, folder=tmp_path, every=3)
    assert torn.ended == "interrupted"
    monkeypatch.setattr(TornSGD, "fuse", -1)
    assert differences(snapshot(run(TOTAL)), snapshot(run(TOTAL, folder=tmp_path, resume=True))) == []


def test_a_torn_step_that_is_saved_breaks_the_law(tmp_path, monkeypatch):
    """The negative twin."""
    monkeypatch.setattr(Trainer, "_recover", lambda self: self.cursor.go_to(self.cursor.place))
    run = Run(em={"optimizer": TornSGD, "lr": 0.01}, callbacks=lambda: [SaveAlways()])
    run(TOTAL, folder=tmp_path, every=3)
    monkeypatch.setattr(TornSGD, "fuse", -1)
    assert differences(snapshot(run(TOTAL)), snapshot(run(TOTAL, folder=tmp_path, resume=True))) != []


class SaveAlways(Callback):
    def on_end(self, run) -> None:
        run._whole = True


class TornTwice(torch.optim.SGD):
    """Ctrl-C in an update, and again while the run goes back to the place before it."""

    hits = (9, 12)
    calls = 0

    def step(self, closure=None):
        type(self).calls += 1
        result = super().step(closure)
        if self.calls in self.hits:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)
            raise KeyboardInterrupt
        return result


def test_an_interrupt_on_the_way_back_leaves_the_last_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(TornTwice, "calls", 0)
    run = Run(em={"optimizer": TornTwice, "lr": 0.01})
    torn = run(TOTAL, folder=tmp_path, every=50)
    assert (torn.ended, torn.steps) == ("interrupted", 0)
    monkeypatch.setattr(TornTwice, "hits", ())
    assert differences(snapshot(run(TOTAL)), snapshot(run(TOTAL, folder=tmp_path, resume=True))) == []


# the flag by itself


def test_the_first_interrupt_waits_and_the_second_does_not():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as flag:  # noqa: PT012
        assert not flag.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_ones_own_comes_back():
    def mine(signum, frame):
        raise AssertionError("not while the run is on")

    before = signal.signal(signal.SIGINT, mine)
    try:
        with deferred_interrupt() as flag:
            os.kill(os.getpid(), signal.SIGINT)
        assert flag.requested
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_ignores_ctrl_c_goes_on():
    """As a job behind ``&`` in a script does."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit = Run(pair=plain)(TOTAL, callbacks=[Press("step", 6, "signal")])
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (fit.ended, fit.steps) == ("completed", TOTAL)


# SIGTERM

TERMINATED = """
import os, signal, sys
from pathlib import Path
from runs import Run, plain
from ppl_vae import Callback
class Wait(Callback):
    def on_step(self, run, report):
        if run.step == 6:
            print("here", flush=True)
            sys.stdin.readline()
fit = Run(pair=plain)(400, folder=Path(sys.argv[1]), callbacks=[Wait()])
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
print(fit.ended, fit.steps, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGTERM")
def test_a_process_that_is_asked_to_end_writes_its_state_at_that_step(tmp_path):
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join([tests, str(Path(ppl_vae.__file__).parents[1])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TERMINATED, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate("\n")
    assert process.returncode == 0
    assert said == "interrupted 6\n"
    run = Run(pair=plain, callbacks=lambda: [Callback()])
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    cut = run(TOTAL, folder=tmp_path, resume=True, start=1)
    assert differences(snapshot(run(TOTAL)), snapshot(cut)) == []


@pytest.mark.parametrize("how", ["handler", "ignored", "default"])
def test_a_handler_of_the_callers_for_sigterm_stays(how):
    heard = []
    mine = {"handler": lambda signum, frame: heard.append(signum), "ignored": signal.SIG_IGN, "default": signal.SIG_DFL}
    before = signal.signal(signal.SIGTERM, mine[how])
    try:
        with deferred_interrupt(terminate=True) as flag:
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is mine[how]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert flag.requested == (how == "default")
    assert heard == ([signal.SIGTERM] if how == "handler" else [])


def test_the_second_request_does_not_wait():
    with pytest.raises(KeyboardInterrupt), deferred_interrupt(terminate=True):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_ends_when_it_is_told_to():
    """As a DataLoader tells its own."""
    with deferred_interrupt(terminate=True) as flag:
        hear, tell = os.pipe()
        if not (child := os.fork()):
            os.write(tell, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(hear, 1)
        os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == -signal.SIGTERM
    assert not flag.requested


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        with deferred_interrupt() as flag:
            seen.append((signal.getsignal(signal.SIGINT) is before, flag.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
