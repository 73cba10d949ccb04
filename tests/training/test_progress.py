"""The progress bar: there in a terminal, silent elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest
from runs import PER_EPOCH, Run

from ppl_vae import Callback
from ppl_vae.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Error output goes to a terminal. (A fixture would come before pytest's own capture of the call.)"""
    screen = Terminal()
    with redirect_stderr(screen):
        yield screen


@pytest.mark.parametrize("progress", [True, False])
def test_quiet_where_there_is_no_terminal(progress, capsys):
    Run()(2 * PER_EPOCH, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_shown_in_a_terminal(capsys):
    with terminal() as screen:
        fit = Run()(3 * PER_EPOCH, progress=True)
    shown = screen.getvalue()
    assert f"{3 * PER_EPOCH}/{3 * PER_EPOCH}" in shown
    assert "epoch=3" in shown
    assert f"ELBO={fit.history['elbo'].iloc[-1]:.3f}" in shown
    assert "step/s" in shown
    assert capsys.readouterr().out == ""


def test_silent_in_a_terminal_on_request():
    with terminal() as screen:
        Run()(PER_EPOCH, progress=False)
    assert screen.getvalue() == ""


def test_a_resumed_run_counts_on(tmp_path):
    Run()(5, folder=tmp_path)
    with terminal() as screen:
        Run()(7, folder=tmp_path, resume=True, progress=True)
    assert "7/7" in screen.getvalue()
    assert "0/7" not in screen.getvalue()


def test_the_bar_is_closed_after_an_error():
    class Fails(Callback):
        def on_epoch(self, run, row):
            raise RuntimeError("mine")

    with terminal() as screen:
        with pytest.raises(RuntimeError, match="mine"):
            Run()(2 * PER_EPOCH, progress=True, callbacks=[Fails()])
        assert screen.getvalue().endswith("\n")


def test_a_bar_without_rows_shows_the_steps():
    with terminal() as screen:
        bar = Progress(10, 0, enabled=True)
        bar.show(3, None)
        bar.close()
    assert "3/10" in screen.getvalue()
    assert "ELBO" not in screen.getvalue()
