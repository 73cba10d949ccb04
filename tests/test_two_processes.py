"""Two processes and one folder: a reader finds one save whole, and one process writes at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs import PER_EPOCH, Run, differences, plain, snapshot

import ppl_vae
from ppl_vae.storage import FolderInUse, RunFolder, Snapshot, StorageError, lock, locked, write_json
from ppl_vae.storage.lock import LOCK

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}


@contextmanager
def another(script: str, *arguments: object):
    """Another process, which has said its first word."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline(), "it has not begun"
            yield process
        finally:
            process.kill()


@contextmanager
def locked_by_another_thread(folder: Path):
    """What another thread of this process finds."""
    found: list[FolderInUse] = []

    def work() -> None:
        try:
            with locked(folder):
                pass
        except FolderInUse as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if found:
        raise found[0]
    yield


# one save whole

SAVES = """
import sys
from ppl_vae.storage import RunFolder
folder, saves = RunFolder(sys.argv[1]), 0
while True:
    files = {f"{name}.json": saves for name in "abcdefgh"} | {f"plots/{saves % 3}.txt": str(saves)}
    folder.write(files, keep=False)
    saves += 1
    if saves == 2:
        print("go", flush=True)
"""


def test_a_reader_finds_one_save_whole_while_another_process_saves(tmp_path):
    """Eight files of one number each, in a loop."""
    seen = set()
    with another(SAVES, tmp_path / "run"):
        while len(seen) < 8:
            with RunFolder(tmp_path / "run").snapshot() as saved:
                saved.verify()
                numbers = {saved.read_json(f"{name}.json") for name in "abcdefgh"}
            assert len(numbers) == 1
            assert RunFolder(tmp_path / "run").read_json("h.json") >= max(numbers)
            seen |= numbers


def test_a_fit_is_loaded_whole_while_another_is_saved_over_it(tmp_path, monkeypatch):
    """The other save comes at the worst moment: when the files of the first have been compared."""
    few, many = Run(pair=plain)(2), Run(pair=plain)(2 * PER_EPOCH + 1)
    few.save(tmp_path / "run")
    verify = Snapshot.verify

    def and_save(saved):
        verify(saved)
        many.save(tmp_path / "run", overwrite=True)

    monkeypatch.setattr(Snapshot, "verify", and_save)
    found = ppl_vae.load(tmp_path / "run", *plain(1))
    monkeypatch.undo()
    assert (found.steps, len(found.history)) == (2, 0)
    assert differences(found.params, few.params) == []
    again = ppl_vae.load(tmp_path / "run", *plain(1))
    assert (again.steps, len(again.history)) == (2 * PER_EPOCH + 1, 2)
    assert differences(again.params, many.params) == []


def test_a_save_that_is_committed_while_files_are_opened_is_read_instead(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.write({"a.json": 1, "b.json": 1})
    real, moments = sys.modules["ppl_vae.storage.snapshot"].open_plain, iter([False, True])

    def and_save(path):
        if next(moments, False):
            folder.write({"a.json": 2, "b.json": 2})
        return real(path)

    monkeypatch.setattr("ppl_vae.storage.snapshot.open_plain", and_save)
    with folder.snapshot() as saved:
        assert [saved.read_json(name) for name in ("a.json", "b.json")] == [2, 2]


def test_a_reader_gives_up_in_the_end_and_says_why(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.write({"a.json": 1})
    identities = iter(range(10**6))
    monkeypatch.setattr("ppl_vae.storage.snapshot.identity_of", lambda path: (next(identities),))
    monkeypatch.setattr("ppl_vae.storage.snapshot._PAUSE", 0.0)
    with pytest.raises(StorageError, match=r"manifest\.json: another process has saved here 100 times"):
        folder.verify()


# one writer

HOLDS = """
import sys
from pathlib import Path
from ppl_vae.storage import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_is_refused_while_another_process_writes_in_it(tmp_path):
    with another(HOLDS, tmp_path) as process:
        message = (
            rf"in use by process {process.pid} on '.+' since \d{{4}}-.*; wait until it has ended, or choose another"
        )
        with pytest.raises(FolderInUse, match=message), locked(tmp_path):
            raise AssertionError("two have it")
        assert RunFolder(tmp_path).claim().path == tmp_path  # the file of the lock is nobody's file
        process.communicate("\n")
    RunFolder(tmp_path).write({"a.json": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "manifest.json"]


def test_a_save_waits_for_another_one(tmp_path):
    with another(HOLDS, tmp_path) as process:
        timer = threading.Timer(0.3, process.communicate, ["\n"])
        timer.start()
        RunFolder(tmp_path).write({"a.json": 1})
        timer.join()
    RunFolder(tmp_path).verify()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_the_lock_of_a_killed_process_is_free_and_its_file_goes_with_the_next_holder(tmp_path):
    with another(HOLDS, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    RunFolder(tmp_path).claim().write({"a.json": 1})
    assert not (tmp_path / LOCK).exists()
    assert RunFolder(tmp_path).names() == ["a.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path):
    """As the workers of a DataLoader, which outlive a killed run by some seconds."""
    script = """
import os, sys, time
from pathlib import Path
from ppl_vae.storage import locked
with locked(Path(sys.argv[1])):
    if not os.fork():
        time.sleep(30)
    print("held", flush=True)
    sys.stdin.readline()
"""
    with another(script, tmp_path) as process:
        with pytest.raises(FolderInUse), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path, wait=10.0):  # the child may not have had its turn yet; it sleeps for longer
            pass


def test_a_thread_may_take_its_own_lock_again(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}"), locked_by_another_thread(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_whose_file_was_removed_begins_anew(tmp_path, monkeypatch):
    """Somebody opens the file of the lock, and its holder removes it and goes: what was opened is a lock on nothing."""
    real, opened = lock._open, []

    def and_remove(path):
        opened.append(real(path))
        if len(opened) == 1:
            os.unlink(path)
        return opened[-1]

    monkeypatch.setattr(lock, "_open", and_remove)
    with locked(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / LOCK).exists()
        with pytest.raises(FolderInUse), locked_by_another_thread(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_once_and_goes_on(number, tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "_lock_now", refuse)
    with pytest.warns(UserWarning, match=f"{tmp_path.name}: this file system has no locks .*one process write") as said:
        RunFolder(tmp_path).write({"a.json": 1})
    assert len(said) == 1
    RunFolder(tmp_path).verify()


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_that_would_write_into_a_file_of_somebody_elses_is_refused(make, tmp_path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "run").mkdir()
    make(tmp_path / "letter", tmp_path / "run" / LOCK)
    with pytest.raises(StorageError, match=r"\.lock: a plain file with this one name is required"):
        RunFolder(tmp_path / "run").write({"a.json": 1})
    assert (tmp_path / "letter").read_text() == "dear"


# runs

FITS = """
import sys
from pathlib import Path
from runs import Run, plain
from ppl_vae import Callback
class Wait(Callback):
    def on_epoch(self, run, row):
        print("an epoch", flush=True)
        sys.stdin.readline()
Run(pair=plain)(40, folder=Path(sys.argv[1]), callbacks=[Wait()])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_run_that_is_still_going_is_not_resumed_and_a_killed_one_is(tmp_path):
    run = Run(pair=plain, callbacks=lambda: [ppl_vae.Callback()])
    with another(FITS, tmp_path) as process:
        process.stdin.write("\n")  # so the state of the first epoch is written, and the second begins
        process.stdin.flush()
        process.stdout.readline()
        for resume in (True, False):
            with pytest.raises(FolderInUse, match=f"in use by process {process.pid} on"):
                run(3 * PER_EPOCH, folder=tmp_path, resume=resume)
        process.kill()
        process.wait()
    cut = run(3 * PER_EPOCH, folder=tmp_path, resume=True, start=1)
    assert cut.ended == "completed"
    assert differences(snapshot(run(3 * PER_EPOCH)), snapshot(cut)) == []
    assert [path.name for path in tmp_path.iterdir()] == [RunFolder.STATE]


def test_a_callback_may_save_into_the_folder_of_its_run(tmp_path):
    class Save(ppl_vae.Callback):
        def on_epoch(self, run, row):
            run.fit.save(tmp_path / "run", overwrite=True)

    Run(pair=plain)(PER_EPOCH, folder=tmp_path / "run", callbacks=[Save()])
    assert ppl_vae.load(tmp_path / "run", *plain(1)).steps == PER_EPOCH
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_command_refuses_a_folder_in_which_another_one_writes(tmp_path):
    from ppl_vae.cli import main

    arguments = ["fit", "vae", "--data", "iris", "--epochs", "1", "--out", str(tmp_path / "run")]
    checkpoint = tmp_path / "run" / RunFolder.CHECKPOINT
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / RunFolder.CONFIG, {})
    with another(HOLDS, tmp_path / "run") as process:
        for options in ([], ["--overwrite"], ["--resume"]):
            found = CliRunner().invoke(main, [*arguments, *options])
            assert found.exit_code == 2
            assert f"in use by process {process.pid}" in found.output
    assert json.loads((checkpoint / RunFolder.CONFIG).read_text())["content"] == {}
