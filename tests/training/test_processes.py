"""Several processes: until one fit can be made by them together, each is told that it is not alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from runs import data, plain
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import ppl_vae
from ppl_vae import VariationalEM
from ppl_vae.cli import main


def fitted(rows=None, **options):
    return VariationalEM(*plain()).fit(data() if rows is None else rows, steps=1, progress=False, **options)


@pytest.fixture
def launched(monkeypatch):
    """What torchrun says to each process."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_fit_under_a_launcher_is_refused_with_the_way_out(launched, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"fit: this process is one of 2 processes \(WORLD_SIZE=2.*'WORLD_SIZE'") as e:
        fitted(checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "python" in str(e.value)
    monkeypatch.delenv("WORLD_SIZE")  # as the message says
    assert fitted().ended == "completed"


def test_steps_by_hand_under_a_launcher_are_refused(launched):
    with pytest.raises(ValueError, match="VariationalEM.step: this process is one of 2 processes"):
        VariationalEM(*plain()).step(data())


def test_the_command_says_so_in_one_line_and_touches_nothing(launched, tmp_path):
    kept = tmp_path / "run" / "checkpoint" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the run before")
    result = CliRunner().invoke(main, ["fit", "flow", "--data", "iris", "--out", str(tmp_path / "run"), "--overwrite"])
    assert result.exit_code == 2
    assert "this process is one of 2 processes" in result.output
    assert kept.exists()


@pytest.mark.parametrize(
    "environ",
    [
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "many", "RANK": "0"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"},
    ],
)
def test_one_process_and_the_words_of_a_cluster_alone_are_no_matter(environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert fitted().ended == "completed"


def test_a_process_group_of_several_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"one of 3 processes \(torch.distributed\)"):
        fitted()
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    assert fitted().ended == "completed"


def test_a_loader_of_one_part_of_the_rows_is_refused():
    rows = TensorDataset(data())
    part = DistributedSampler(rows, num_replicas=2, rank=0)
    for loader in (
        DataLoader(rows, batch_size=4, sampler=part),
        DataLoader(rows, batch_sampler=torch.utils.data.BatchSampler(part, 4, drop_last=False)),
    ):
        with pytest.raises(ValueError, match="DistributedSampler gives 1 of 2 parts"):
            fitted(loader)
        with pytest.raises(ValueError, match="DistributedSampler gives 1 of 2 parts"):
            fitted(validation=loader)
    whole = DistributedSampler(rows, num_replicas=1, rank=0)
    assert fitted(DataLoader(rows, batch_size=4, sampler=whole)).ended == "completed"


SCRIPT = """
import torch
import ppl_vae
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
x = torch.rand(20, 3)
model = VAE(torch.nn.Linear(2, 3), latent_dim=2, likelihood="normal")
print(ppl_vae.fit(model, AmortizedNormal(torch.nn.Linear(3, 4), latent_dim=2), x, steps=2, progress=False).ended)
"""


@pytest.mark.slow
def test_torchrun_itself(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    environ = {**os.environ, "PYTHONPATH": str(Path(ppl_vae.__file__).parents[1])}

    def run(count):
        command = [*launcher, count, "script.py"]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    assert run("1").stdout.strip() == "completed"
    several = run("2")
    assert several.returncode and "completed" not in several.stdout
    assert "this process is one of 2 processes (WORLD_SIZE=2" in several.stderr
