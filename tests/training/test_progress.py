"""The progress bar: there in a terminal, silent elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from runs import PER_EPOCH, Run

from ppl_vae.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


@pytest.mark.parametrize("progress", [True, False])
def test_quiet_where_there_is_no_terminal(progress, capsys):
    Run()(2 * PER_EPOCH, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_shown_in_a_terminal(terminal, capsys):
    fit = Run()(3 * PER_EPOCH, progress=True)
    shown = terminal.getvalue()
    assert f"{3 * PER_EPOCH}/{3 * PER_EPOCH}" in shown
    assert "epoch=3" in shown
    assert f"ELBO={fit.history['elbo'].iloc[-1]:.3f}" in shown
    assert "step/s" in shown
    assert capsys.readouterr().out == ""


def test_silent_in_a_terminal_on_request(terminal):
    Run()(PER_EPOCH, progress=False)
    assert terminal.getvalue() == ""


def test_a_resumed_run_counts_on(terminal, tmp_path):
    Run()(5, folder=tmp_path)
    Run()(7, folder=tmp_path, resume=True, progress=True)
    assert "7/7" in terminal.getvalue()
    assert "0/7" not in terminal.getvalue()


def test_the_bar_is_closed_after_an_error(terminal):
    from ppl_vae import Callback

    class Fails(Callback):
        def on_epoch(self, run, row):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        Run()(2 * PER_EPOCH, progress=True, callbacks=[Fails()])
    assert terminal.getvalue().endswith("\n")


def test_a_bar_without_rows_shows_the_steps(terminal):
    bar = Progress(10, 0, enabled=True)
    bar.show(3, None)
    bar.close()
    assert "3/10" in terminal.getvalue()
    assert "ELBO" not in terminal.getvalue()
