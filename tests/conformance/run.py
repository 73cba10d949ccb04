"""Pyro's own tests with Pyro's SVI and with ours: the same outcome test by test, and how many steps were captured.

    python tests/conformance/run.py CLONE [--plant] [--only WORD] [--jobs 2]

CLONE is a clone of pyro-ppl/pyro; its tests run under its own setup.cfg, on the Pyro that is installed. Each file is
run twice, as it is and with ``conformance.plugin``, where ``SVI`` is :class:`~conformance.svi.ConformingSVI` and every
``loss_and_grads`` that a test calls is made by Pyro and by a captured graph, which must agree to the bit.

The run fails where an outcome differs, where a graph differs from Pyro, where a file cannot be collected or has no
captured step, or where fewer of the steps that Pyro accepts were captured than :data:`FILES` asks. With ``--plant`` a
gradient of each graph is wrong by one percent, and the run must fail.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
PACKAGE = TESTS.parent
FILES = {
    "tests/infer/test_valid_models.py": 0.8,
    "tests/infer/test_gradient.py": 0.8,
    "tests/infer/test_jit.py": 0.8,
    "tests/infer/test_elbo_mapdata.py": 0.75,  # one test of nine draws the rows that a loop names its sites by
    "tests/optim/test_optim.py": 0.8,
    "tests/contrib/easyguide": 0.8,
    "tests/nn/test_module.py": 0.8,
}
"""What is run, and the part of the accepted steps that must be captured."""
MOST_NAMES = 8


@dataclass
class Run:
    """One run of a file."""

    outcomes: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)  # accepted, captured, mismatches; examples by reason
    crash: str = ""  # pytest did not come to its end; the last lines of what it wrote


@dataclass
class Both:
    """A file run by Pyro and by ours."""

    file: str
    theirs: Run
    ours: Run

    @property
    def different(self) -> list[str]:
        """The tests whose outcome differs."""
        names = {**self.theirs.outcomes, **self.ours.outcomes}
        pairs = (
            (name, self.theirs.outcomes.get(name, "absent"), self.ours.outcomes.get(name, "absent")) for name in names
        )
        return [f"{name}: {theirs} with Pyro's SVI, {ours} with ours" for name, theirs, ours in pairs if theirs != ours]

    @property
    def problems(self) -> list[str]:
        """Why this file makes the run fail."""
        found = [run.crash for run in (self.theirs, self.ours) if run.crash] + self.different
        found += [f"{self.file}::{mismatch}" for mismatch in self.ours.counts.get("mismatches", [])]
        accepted, captured = (self.ours.counts.get(what, 0) for what in ("accepted", "captured"))
        if captured < FILES[self.file] * accepted or not captured:
            found.append(f"{self.file}: {captured} of {accepted} steps were captured, {FILES[self.file]:.0%} must be")
        return found


def main() -> int:
    """Run all files, print a table, and say what is wrong."""
    options = _options()
    clone = Path(options.clone).resolve()
    files = [file for file in FILES if options.only in file]
    missing = [file for file in files if not (clone / file).exists()]
    if missing or not files:
        print(f"{clone} is no clone of pyro-ppl/pyro: it lacks {', '.join(missing) or options.only}", file=sys.stderr)
        return 2
    print(_versions(clone), flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        theirs = {file: pool.submit(_run, clone, file, ours=False, plant=False) for file in files}
        ours = {file: pool.submit(_run, clone, file, ours=True, plant=options.plant) for file in files}
        results = [Both(file, theirs[file].result(), ours[file].result()) for file in files]
    _print_table(results)
    _print_rest(results)
    problems = [problem for both in results for problem in both.problems]
    for problem in problems:
        print(f"DIFFERENT  {problem}"[:600])
    print(f"\n{len(problems)} differences" if problems else "\nno difference")
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", help="a clone of pyro-ppl/pyro")
    parser.add_argument("--plant", action="store_true", help="make one gradient of each graph wrong by a percent")
    parser.add_argument("--only", default="", metavar="WORD", help="only files with this word in their path")
    parser.add_argument("--jobs", type=int, default=2, help="files run at a time")
    return parser.parse_args()


def _versions(clone: Path) -> str:
    import pyro
    import torch

    head = subprocess.run(["git", "-C", clone, "log", "-1", "--format=%h of %cs"], capture_output=True, text=True)
    commit = head.stdout.strip() if (clone / ".git").exists() else "an unknown commit (no .git)"
    return f"Pyro {pyro.__version__} as installed, torch {torch.__version__}, tests of {clone} at {commit}"


def _run(clone: Path, file: str, *, ours: bool, plant: bool) -> Run:
    """Pytest on one file, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes, counts = Path(folder) / "outcomes.json", Path(folder) / "counts.json"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(PACKAGE)]),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CONFORMANCE_OUTCOMES": str(outcomes),
            "CONFORMANCE_COUNTS": str(counts),
            "CONFORMANCE_PLANT": "1" if plant else "",
        }
        plugins = ["-p", "conformance.record", *(["-p", "conformance.plugin"] if ours else [])]
        # -P: the clone's folder is not on the path when the plugins import Pyro, so they import the installed one.
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *plugins, file]
        made = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        if not outcomes.exists() or (ours and not counts.exists()):
            last = " | ".join((made.stdout + made.stderr).strip().splitlines()[-5:])
            return Run(crash=f"{file}: pytest {'with our SVI ' if ours else ''}ended with {made.returncode}: {last}")
        found = json.loads(counts.read_text()) if ours else {}
        return Run(json.loads(outcomes.read_text()), _total(found.values()))


def _total(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The counts of the files of a folder, together."""
    total: dict[str, Any] = {"accepted": 0, "captured": 0, "mismatches": [], "examples": defaultdict(list)}
    for count in counts:
        for what in ("accepted", "captured", "mismatches"):
            total[what] += count[what]
        for reason, tests in count["examples"].items():
            total["examples"][reason] += tests
    return total


def _print_table(results: list[Both]) -> None:
    rows = [("file", "tests", "passed", "same outcome", "steps", "captured", "")]
    for both in results:
        outcomes, counts = both.theirs.outcomes, both.ours.counts
        accepted, captured = counts.get("accepted", 0), counts.get("captured", 0)
        passed = sum(outcome == "passed" for outcome in outcomes.values())
        same = len({**outcomes, **both.ours.outcomes}) - len(both.different)
        share = f"{captured / accepted:.1%}" if accepted else "-"
        rows.append((both.file, str(len(outcomes)), str(passed), str(same), str(accepted), str(captured), share))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
    print("(steps: those that Pyro makes without an error; captured: made by the graph too, and the same to the bit)\n")


def _print_rest(results: list[Both]) -> None:
    """Why steps stayed eager, and every test that did not simply pass with Pyro's own SVI."""
    for both in results:
        examples = both.ours.counts.get("examples", {})
        for reason, tests in sorted(examples.items(), key=lambda item: -len(item[1])):
            names = Counter(re.split(r"[\[:]", test)[0] for test in tests)
            where = ", ".join(f"{name} {times}" for name, times in names.most_common(MOST_NAMES))
            rest = f" and {len(names) - MOST_NAMES} more tests" if len(names) > MOST_NAMES else ""
            print(f"eager       {both.file}: {len(tests)} steps: {reason}\n            ({where}{rest})")
        others = Counter(outcome for outcome in both.theirs.outcomes.values() if outcome != "passed")
        for outcome, times in others.most_common():
            print(f"not passed  {both.file}: {times} {outcome} (with Pyro's own SVI)")


if __name__ == "__main__":
    sys.exit(main())
