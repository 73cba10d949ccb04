"""A full disk, a permission lost, a folder gone: named, with the fit in hand, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from runs import PER_EPOCH, Run, data, differences, networks, plain, snapshot

import ppl_vae
from ppl_vae import Callback
from ppl_vae.storage import RunFolder, StorageError, WriteError, patience
from ppl_vae.storage.lock import LOCK

TOTAL = 3 * PER_EPOCH
CALLS = ("open", "fsync", "replace")


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.0, 0.0))


class Failing:
    """A function of ``os`` that fails from its ``after``-th call on, ``times`` times."""

    def __init__(self, monkeypatch, name: str, number: int, *, after: int, times: int = 10**9) -> None:
        self.real, self.number, self.after, self.times, self.calls = getattr(os, name), number, after, times, 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.after < self.calls <= self.after + self.times:
            raise OSError(self.number, os.strerror(self.number))
        return self.real(*args, **kwargs)

    @property
    def has_failed(self) -> bool:
        return self.calls > self.after


def left_in(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.startswith("."))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device.*free some space, or choose a folder on another disk"),
        (errno.EACCES, "Permission denied.*see who may write there"),
        (errno.EROFS, "Read-only file system.*see who may write there"),
        (errno.EIO, "Input/output error.*see to the disk"),
    ],
)
def test_a_state_that_cannot_be_written_is_named_and_the_fit_is_in_the_error(number, advice, tmp_path, monkeypatch):
    run = Run(pair=plain)
    with monkeypatch.context() as patch:
        Failing(patch, "fsync", number, after=3)  # the second checkpoint
        with pytest.raises(WriteError, match=rf"state\.safetensors: could not be written \({advice}") as caught:
            run(TOTAL, folder=tmp_path, callbacks=[Callback()])
        assert left_in(tmp_path) == []
    error, fit = caught.value, caught.value.fit
    assert (error.errno, error.path) == (number, tmp_path / RunFolder.STATE)
    assert (fit.ended, fit.steps, fit.epochs) == ("failed", 2 * PER_EPOCH, 2)
    assert differences(snapshot(run(2 * PER_EPOCH, callbacks=[Callback()])), snapshot(fit)) == []
    fit.save(tmp_path / "elsewhere")
    assert ppl_vae.load(tmp_path / "elsewhere", *plain(1)).steps == 2 * PER_EPOCH
    whole = snapshot(run(TOTAL, callbacks=[Callback()]))
    again = run(TOTAL, folder=tmp_path, resume=True, start=1, callbacks=[Callback()])  # from the first checkpoint
    assert differences(whole, snapshot(again)) == []
    fit.resume(steps=TOTAL - fit.steps)
    assert differences(whole, snapshot(fit)) == []


@pytest.mark.parametrize("name", CALLS)
def test_what_passes_is_waited_for(name, tmp_path, monkeypatch):
    """A disk on which room is made meanwhile, a network that comes back."""
    failing = Failing(monkeypatch, name, errno.ENOSPC, after=2, times=2)
    fit = Run(pair=plain)(TOTAL, folder=tmp_path, callbacks=[Callback()])
    assert failing.has_failed
    assert fit.ended == "completed"
    assert left_in(tmp_path) == []


def test_a_folder_that_is_gone_is_said(tmp_path):
    class Remove(Callback):
        def on_epoch(self, run, row):
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(WriteError, match=r"run/state\.safetensors: .*the folder is gone: bring it back, or") as caught:
        Run(pair=plain)(TOTAL, folder=tmp_path / "run", callbacks=[Remove()])
    assert caught.value.fit.steps == PER_EPOCH
    assert not (tmp_path / "run").exists()


def test_a_folder_that_may_not_be_written_to_is_said_before_the_first_step(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if str(path).endswith(LOCK):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WriteError, match=r"Permission denied.*see who may write there") as caught:
        Run(pair=plain)(TOTAL, folder=tmp_path)
    assert caught.value.fit.steps == 0


def test_the_error_that_ended_a_run_stays_though_its_state_cannot_be_saved(tmp_path, monkeypatch):
    class Break(Callback):
        def on_step(self, run, report):
            if run.step == 3:
                Failing(monkeypatch, "fsync", errno.ENOSPC, after=0)
                raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        Run(pair=plain)(TOTAL, folder=tmp_path, callbacks=[Break()])
    assert "and the state could not be saved" in caught.value.__notes__[0]


def test_an_interrupted_run_whose_state_cannot_be_saved_says_so(tmp_path, monkeypatch):
    class Press(Callback):
        def on_step(self, run, report):
            if run.step == 2:
                raise KeyboardInterrupt

    Failing(monkeypatch, "fsync", errno.ENOSPC, after=0)
    with pytest.raises(WriteError) as caught:
        Run(pair=plain)(TOTAL, folder=tmp_path, callbacks=[Press()])
    assert (caught.value.fit.ended, caught.value.fit.steps) == ("interrupted", 2)


@pytest.mark.parametrize("name", CALLS)
def test_a_disk_that_fills_at_any_call_of_a_save_leaves_the_old_fit_or_the_new(name, tmp_path, monkeypatch):
    """From the k-th call on, for every k: a whole folder, an error with a path, nothing staged but what is needed."""
    run = Run(pair=plain)
    few, many = run(2), run(5)
    extra = {"plots/note.txt": "a note", "plots/figure.png": lambda path: path.write_bytes(b"\x89PNG")}
    few.save(tmp_path / "old", extra=extra)
    k, errors = 0, []
    while True:
        folder = tmp_path / f"run{k}"
        shutil.copytree(tmp_path / "old", folder)
        with monkeypatch.context() as patch:
            failing = Failing(patch, name, errno.ENOSPC, after=k)
            try:
                many.save(folder, overwrite=True, extra=extra)
            except WriteError as error:
                errors.append(error)
        RunFolder(folder).verify()
        found = ppl_vae.load(folder, *plain(1))
        expected = {2: few, 5: many}[found.steps]
        assert differences(found.params, expected.params) == []
        with RunFolder(folder).snapshot() as saved:
            needed = {entry["staged"].rpartition("/")[2] for entry in saved.entries() if "staged" in entry}
        assert set(left_in(folder)) <= needed
        if not failing.has_failed:
            break
        many.save(folder, overwrite=True, extra=extra)
        assert left_in(folder) == []
        k += 1
    assert len(errors) >= 5
    assert all(error.errno == errno.ENOSPC and str(tmp_path / "run") in str(error) for error in errors)
    assert found.steps == 5


def test_a_save_into_a_folder_whose_staged_files_could_not_be_written_is_not_begun(tmp_path, monkeypatch):
    fit = Run(pair=networks)(2)
    Failing(monkeypatch, "fsync", errno.ENOSPC, after=0)
    with pytest.raises(WriteError, match=r"run/config\.json: could not be written"):
        fit.save(tmp_path / "run", data=data())
    monkeypatch.undo()
    assert left_in(tmp_path) == []
    with pytest.raises(StorageError, match=r"manifest\.json: no such file"):
        ppl_vae.load(tmp_path / "run", *networks())
    fit.save(tmp_path / "run")
