"""Every example runs, prints finite numbers, and writes its plot; a file that is not in the table fails."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = ("e_and_m_steps", "iwae_vs_vae", "linear_vae_is_ppca", "own_pair", "quickstart", "vae_digits")
BENCHMARKS = ("default_recipe", "training_speed")


def run(script: Path, *arguments: str) -> str:
    """What the script prints with --smoke."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, str(script), "--smoke", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_and_benchmark_is_in_the_table():
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.py"))) == EXAMPLES
    benchmarks = FOLDER.parent / "benchmarks"
    assert tuple(sorted(path.stem for path in benchmarks.glob("*.py"))) == BENCHMARKS


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_numbers_and_draws(name, tmp_path):
    printed = run(FOLDER / f"{name}.py", "--out", str(tmp_path))
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d+(?:e[+-]?\d+)?", printed)]
    assert len(numbers) >= 5 and all(math.isfinite(number) for number in numbers)
    assert "nan" not in printed.lower().split()
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_its_table(name):
    printed = run(FOLDER.parent / "benchmarks" / f"{name}.py")
    assert len(printed.splitlines()) >= 2 and "nan" not in printed
