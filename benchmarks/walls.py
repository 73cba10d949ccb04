"""What the engine's walls cost its users, in one table: this build, or two builds beside each other.

Rows read from a DataLoader, steps on many rows, checkpoints of long histories, the size of a run folder, memory of an
evaluation, chains of summed-out states, the first fit of a process. Every figure is taken in a process of its own; with
``--against`` an older commit is checked out beside this one and its processes alternate with ours: medians of the
rounds, and their ratio. ``--bits`` compares the bits of trainings and the values of log densities instead.

    python benchmarks/walls.py [--against COMMIT] [--rounds 5] [--only WORD] [--bits] [--smoke]
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

Figure = tuple[str, str, tuple[Any, ...], tuple[Any, ...]]
"""What it is, the function that takes it, its arguments, and those of a smoke run."""

FIGURES: list[Figure] = [
    ("DataLoader, 800 batches: rows read / needed", "rows.read_over_needed", (800, False), (60, False)),
    ("  200 batches, a callback each step", "rows.read_over_needed", (200, True), (20, True)),
    ("step, ms: N = 1e4, B = 64", "rows.milliseconds_a_step", (10_000, False, False, 100), (200, False, False, 20)),
    ("  N = 1e6", "rows.milliseconds_a_step", (1_000_000, False, False, 100), (400, False, False, 20)),
    ("  N = 1e4, a callback each step", "rows.milliseconds_a_step", (10_000, True, False, 100), (200, True, False, 20)),
    (
        "  N = 1e6, a callback each step",
        "rows.milliseconds_a_step",
        (1_000_000, True, False, 100),
        (400, True, False, 20),
    ),
    ("compiled step, ms: N = 1e4", "rows.milliseconds_a_step", (10_000, False, True, 100), (200, False, False, 20)),
    ("  N = 1e6", "rows.milliseconds_a_step", (1_000_000, False, True, 100), (400, False, False, 20)),
    ("a save after 300,000 epochs, s", "state.seconds_of_a_checkpoint", (300_000,), (300,)),
    ("a save after 600,000 epochs, s", "state.seconds_of_a_checkpoint", (600_000,), (600,)),
    ("run folder / weights, bytes", "state.bytes_of_a_run_folder", (), ()),
    ("encode, two latents, 500 rows: peak MiB", "evaluation.mebibytes_of_encoding", (500,), (60,)),
    ("  2,000 rows", "evaluation.mebibytes_of_encoding", (2000,), (80,)),
    ("constrain 200 draws, ms", "chains.milliseconds_to_constrain", (200,), (20,)),
    ("log_evidence, chain of T = 8, s", "chains.seconds_of_evidence", (8,), (4,)),
    ("  T = 100", "chains.seconds_of_evidence", (100,), (5,)),
    ("  T = 1,000", "chains.seconds_of_evidence", (1000,), (6,)),
    ("ELBO and gradient, T = 100, s", "chains.seconds_of_a_gradient", (100,), (4,)),
    ("  T = 1,000", "chains.seconds_of_a_gradient", (1000,), (5,)),
    ("states and data drawn anew, T = 100, s", "chains.seconds_of_a_draw", (100,), (4,)),
    ("  T = 1,000", "chains.seconds_of_a_draw", (1000,), (5,)),
    ("first fit of a process, s", "start.seconds_of_a_first_fit", (), ()),
    ("  imports TorchInductor", "start.imports_the_compiler", (), ()),
]


def found_by(function: str, arguments: tuple[Any, ...]) -> Any:
    """What a function of ``wall_figures`` finds."""
    module, _, name = function.partition(".")
    return getattr(importlib.import_module(f"wall_figures.{module}"), name)(*arguments)


def taken(function: str, arguments: tuple[Any, ...], build: Path) -> Any:
    """The same in a new process under a build; the name of the error where it cannot."""
    paths = [str(build), str(ROOT / "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__, "--take", json.dumps([function, arguments])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=build, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no answer"])[-1].partition(":")[0].rpartition(".")[2]
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def checked_out(commit: str | None) -> Iterator[list[Path]]:
    """The builds to measure: this one, after a working tree of ``commit`` if one is asked for."""
    if commit is None:
        yield [ROOT]
        return
    with tempfile.TemporaryDirectory() as folder:
        older = Path(folder) / "older"
        subprocess.run(["git", "worktree", "add", "--detach", older, commit], cwd=ROOT, check=True, capture_output=True)
        try:
            yield [older, ROOT]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", older], cwd=ROOT, check=True)


def smoke() -> None:
    """Every function once, in this process; the numbers mean nothing."""
    for label, function, _, small in FIGURES:
        print(line(label, [found_by(function, small)]), flush=True)


def table(builds: list[Path], rounds: int, only: str) -> None:
    """One line a figure: the median under each build, and the ratio of the last to the first."""
    names = ["before", "after"] if len(builds) == 2 else ["this build"]
    print(f"{'':<46}" + "".join(f"{name:>14}" for name in names) + ("    ratio" if len(builds) == 2 else ""))
    for label, function, arguments, _ in FIGURES:
        if only in label or only in function:
            found = [[taken(function, arguments, build) for build in builds] for _ in range(rounds)]
            print(line(label, [middle(column) for column in zip(*found, strict=True)]), flush=True)


def middle(values: tuple[Any, ...]) -> Any:
    """The median; or the word, where a build cannot."""
    words = [value for value in values if isinstance(value, str)]
    return words[0] if words else statistics.median(values)


def line(label: str, values: list[Any]) -> str:
    """A row of the table."""
    cells = "".join(f"{value:>14.4g}" if not isinstance(value, str) else f"{value[:13]:>14}" for value in values)
    both = len(values) == 2 and not any(isinstance(value, str) for value in values) and values[0]
    return f"{label:<46}{cells}" + (f"{values[1] / values[0]:>9.3g}" if both else "")


def bits(builds: list[Path]) -> None:
    """Whether trainings end in the same bits, and densities agree to 1e-10, relative."""
    from wall_figures.bits import TRAININGS

    for name in TRAININGS:
        found = [taken("bits.trained", (name,), build) for build in builds]
        print(f"{name:<46}{'  '.join(found)}  {'same bits' if len(set(found)) == 1 else 'DIFFERENT'}", flush=True)
    values = [taken("bits.densities", (), build) for build in builds]
    gaps = [abs(a - b) / max(1.0, abs(a)) for a, b in zip(values[0], values[-1], strict=True)]
    print(f"{'log densities and evidence, worst of ' + str(len(gaps)):<46}{max(gaps):.2g} relative")


def structure(build: Path) -> None:
    """How large the largest classes are, in lines, and what a function has in the median."""
    sources = [path for room in ("ppl_vae", "models", "guides") for path in (build / room).rglob("*.py")]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    classes = {node.name: node.end_lineno - node.lineno + 1 for node in nodes if isinstance(node, ast.ClassDef)}
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    bodies = [node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body for node in functions]
    lengths = [body[-1].end_lineno - body[0].lineno + 1 for body in bodies]
    largest = sorted(classes, key=classes.__getitem__, reverse=True)[:4]
    longest = max(sources, key=lambda path: len(path.read_text().splitlines()))
    print(f"largest classes {', '.join(f'{name} {classes[name]}' for name in largest)}; ", end="")
    print(f"largest file {longest.name} {len(longest.read_text().splitlines())}; ", end="")
    print(f"median function {statistics.median(lengths):g} lines, of {len(lengths)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="measure this older commit too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="WORD", help="figures whose name holds this word")
    parser.add_argument("--bits", action="store_true", help="compare bits and values, not costs")
    parser.add_argument("--smoke", action="store_true", help="in seconds; the numbers mean nothing")
    parser.add_argument("--take", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.take:
        print(json.dumps(found_by(*json.loads(options.take))))
        return
    if options.smoke:
        smoke()
        return
    with checked_out(options.against) as builds:
        for build in builds:
            structure(build)
        if options.bits:
            bits(builds)
        else:
            table(builds, options.rounds, options.only)


if __name__ == "__main__":
    main()
