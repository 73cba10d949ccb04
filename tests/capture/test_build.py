"""The process that compiles: waited for with an ear for Ctrl-C, and ended when nobody waits."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from capture.tiny import asked_for_in_trace, make, never_done, own_store, rows, run_by_torch

from ppl_vae.capture import backend, build, capture
from ppl_vae.capture.build import Build
from ppl_vae.training.interrupts import deferred_interrupt


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """A compiler that is never done."""
    never_done(tmp_path, monkeypatch, 600)
    _, graph = capture(lambda x: [x.sin()], [torch.ones(3)])
    return Build(graph, [torch.ones(3)])


def press(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_end_that_was_asked_for_before_the_wait_is_heard(sleeper):
    told: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        sleeper.wait(told.append, lambda: True)
    assert has_ended(sleeper)
    assert told == []


def test_an_end_that_is_asked_for_while_a_run_of_steps_is_traced_is_heard(tmp_path, monkeypatch):
    run_by_torch(monkeypatch)
    never_done(tmp_path, monkeypatch, 20)
    asked_for_in_trace(monkeypatch, signal.SIGINT)
    with own_store():
        svi = make()
        with pytest.raises(KeyboardInterrupt):
            svi.run(rows(), 5, batch_size=3)
        (row,) = svi.explain().rows
        assert (row.status, row.reason, row.graph_steps) == ("eager", "the compiler was interrupted", 1)
        monkeypatch.setattr(build.Build, "done", True)
        assert svi.run(rows(), 5, batch_size=3).isfinite().all()  # what has ended the one does not end the other
        assert row.status == "compiled"


def has_ended(made: Build) -> bool:
    assert made._process is not None
    return made._process.poll() is not None


def test_ctrl_c_ends_the_wait_and_the_compiler(sleeper):
    with pytest.raises(KeyboardInterrupt):
        sleeper.wait(press)
    assert has_ended(sleeper)


def test_who_listens_for_ctrl_c_is_told_of_it(sleeper):
    with deferred_interrupt() as interrupt:
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            sleeper.wait(press)
        assert signal.getsignal(signal.SIGINT) == handler
    assert interrupt.requested
    assert has_ended(sleeper)


def test_the_seconds_of_a_wait_are_told_until_it_is_over(sleeper):
    told: list[float] = []

    def say(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            sleeper._process.kill()

    sleeper.wait(say)
    assert told == sorted(told) and len(told) >= 3


def test_another_thread_can_wait(sleeper):
    thread = threading.Thread(target=sleeper.wait, args=(lambda seconds: sleeper._process.kill(),))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_where_no_process_can_be_started_this_one_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "library_folder", lambda *_: tmp_path / "library")
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python here"))
    _, graph = capture(lambda x: [x.sin()], [torch.ones(3)])
    assert Build(graph, [torch.ones(3)]).done
