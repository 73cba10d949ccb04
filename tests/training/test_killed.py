"""A process killed by ``kill -9`` anywhere, inside a save too, leaves a checkpoint that leads to the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import differences, snapshot, state_in
from test_resume import RUNS, TOTAL

import ppl_vae

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the victim is forked")

HERE = Path(__file__).parent


def random_plan(seed: int) -> list:
    """Deaths between steps, shots from outside, and deaths inside a save: at its two flushes and at the renaming."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(3, TOTAL - 4), 4))
    plan = [["step", steps[0]], ["os.replace", 2], ["chased", steps[1] + 3], ["os.fsync", 1], ["step", steps[2] + 4]]
    return [*plan, ["os.fsync", 2], ["os.replace", 1]]


PLANS = {name: random_plan(seed) for seed, name in enumerate(("joint", "alternating", "callbacks"))}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The folder of all runs, and what the victim said of each of its lives."""
    folder = tmp_path_factory.mktemp("killed")
    paths = [str(HERE), str(HERE.parent), str(Path(ppl_vae.__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(HERE / "victim.py"), str(folder), json.dumps(PLANS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", PLANS)
def test_a_run_killed_again_and_again_ends_in_the_same_bits(name, story):
    folder, lives = story[0] / name, [life for life in story[1] if life["run"] == name]
    assert [life["death"] for life in lives] == [*PLANS[name], None]
    for life in lives[:-1]:
        if life["death"][0] != "chased":  # a shot may come too late
            assert life["code"] == -signal.SIGKILL, life
        if life["death"] in (["os.replace", 1], ["os.replace", 2], ["os.fsync", 1]):
            assert any(file.startswith(".saving-") for file in life["left"]), "it was to die inside a save"
    assert lives[-1]["code"] == 0
    assert differences(snapshot(RUNS[name](TOTAL)), state_in(folder)) == []


def test_a_save_that_writes_in_place_breaks_the_law(tmp_path, monkeypatch):
    """The negative twin: cut a save that is not atomic in the middle, and there is nothing to resume from."""
    run = RUNS["joint"]
    run(5, folder=tmp_path)

    def in_place(path, tree):
        whole = ppl_vae.storage.encode_tree(tree)
        Path(path).write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr("ppl_vae.training.checkpoint.save_tree", in_place)
    with pytest.raises(KeyboardInterrupt):
        run(8, folder=tmp_path, resume=True)
    monkeypatch.undo()
    with pytest.raises(ppl_vae.storage.StorageError):
        run(TOTAL, folder=tmp_path, resume=True)
