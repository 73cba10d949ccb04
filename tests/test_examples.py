"""Every example and every benchmark runs, and none is forgotten."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Every file of examples/, with a word that its report must hold.
EXAMPLES = {
    "calibration.py": "90 % regions and intervals that hold the truth",
    "clusters.py": "MixtureVAE, random start",
    "compiled_svi.py": "times faster",
    "diagnose_a_vae.py": "asked of the guide as fitted",
    "did_it_collapse.py": "code tells",
    "discrete_vae.py": "joint codes",
    "e_and_m_steps.py": "half-step",
    "eight_schools.py": "by quadrature",
    "flow_digits.py": "variational",
    "flow_is_a_vae.py": "the best multivariate normal",
    "gradient_estimators.py": "naive E-step",
    "iwae_vs_vae.py": "IWAE",
    "kl_duality.py": "what one mode costs",
    "linear_vae_is_ppca.py": "PPCA maximum likelihood",
    "own_pair.py": "naive Monte Carlo",
    "quickstart.py": "test log-likelihood",
    "reverse_kl_energies.py": "no ELBO seen on the way",
    "sandwich.py": "both bounds in expectation",
    "semi_supervised.py": "y enumerated + auxiliary",
    "survae_toy.py": "AbsFlow",
    "trust.py": "errors of means in posterior sds",
    "vae_digits.py": "latent dimensions are active",
    "vae_flow_posterior.py": "flow posterior",
}

SMOKE_SENTENCE = "a smoke run: it shows that the script runs, and its numbers mean nothing"

# Every file of benchmarks/, likewise.
BENCHMARKS = {
    "certificate.py": "certificates false",
    "compiled_step.py": "NumPyro scan",
    "coverage.py": "guide alone",
    "default_recipe.py": "at least -17.5",
    "enumeration.py": "loop over classes",
    "flow_speed.py": "ours over the fastest eager peer",
    "posteriordb.py": "breast_cancer",
    "step_anatomy.py": "one call of the graph",
    "stopping.py": "times the first step asked for",
    "training_speed.py": "Pyro SVI",
    "walls.py": "first fit of a process",
}

NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])", re.IGNORECASE)
NOT_FINITE = re.compile(r"(?<![\w./])[+-]?(nan|inf|infinity)(?!\w)", re.IGNORECASE)


def run(script: Path, *arguments: str, cwd: Path) -> str:
    """What a script prints, run as a person would, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script.name}: {done.stdout}\n{done.stderr}"
    return done.stdout


def not_finite(report: str) -> list[str]:
    """The words of a report that stand for numbers and are none."""
    return [match.group() for match in NOT_FINITE.finditer(report)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_prints_its_numbers_and_draws_its_plot(name: str, tmp_path: Path) -> None:
    report = run(ROOT / "examples" / name, "--smoke", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert EXAMPLES[name] in report
    assert SMOKE_SENTENCE in report
    assert NUMBER.search(report)
    assert not not_finite(report), report
    plot = tmp_path / "out" / name.replace(".py", ".png")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}, "files outside --out"


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_prints_its_table(name: str, tmp_path: Path) -> None:
    report = run(ROOT / "benchmarks" / name, "--smoke", cwd=tmp_path)
    assert BENCHMARKS[name] in report
    assert not not_finite(report), report
    assert not list(tmp_path.iterdir()), "a benchmark writes nothing"


@pytest.mark.slow
@pytest.mark.parametrize("guide", [(), ("--full",)], ids=["diagonal", "full"])
def test_a_linear_vae_reaches_the_maximum_likelihood_of_ppca(guide: tuple[str, ...], tmp_path: Path) -> None:
    """Within 0.01 nat a row on iris and wine; the script itself fails when an exact ELBO on the way lies above it."""
    report = run(ROOT / "examples" / "linear_vae_is_ppca.py", *guide, "--out", str(tmp_path), cwd=tmp_path)
    gaps = [float(gap) for gap in re.findall(r"gap +(\S+)", report)]
    assert len(gaps) == 2
    assert all(-1e-9 <= gap < 0.01 for gap in gaps), report


@pytest.mark.slow
def test_an_enumerated_mixture_of_fifty_reaches_its_mark(tmp_path: Path) -> None:
    """At least -18.6 nats a test digit, exactly, for each of three seeds."""
    report = run(ROOT / "examples" / "discrete_vae.py", "--out", str(tmp_path), cwd=tmp_path)
    exact = [float(value) for value in re.findall(r"test, seed \d +log p\(x\) +(-\S+)", report)]
    assert len(exact) == 3 and min(exact) >= -18.6, report


@pytest.mark.slow
def test_the_classification_term_beats_drawn_labels(tmp_path: Path) -> None:
    """By more than two standard errors of the paired difference over five splits."""
    report = run(ROOT / "examples" / "semi_supervised.py", "--out", str(tmp_path), cwd=tmp_path)
    ((gain, error),) = re.findall(r"^y enumerated \+ auxiliary +\S+ ± \S+ +(\+\S+) ± (\S+)", report, re.MULTILINE)
    assert float(gain) > float(error), report  # what is printed are two standard errors


def excesses(report: str) -> dict[tuple[str, str], float]:
    """NLL less the entropy, by set and model, as survae_toy.py prints them."""
    lines = re.findall(r"^(.{16})(flow|AbsFlow) +\S+ +\S+ ± \S+ +([+-]\S+)", report, re.MULTILINE)
    return {(name.strip(), model): float(above) for name, model, above in lines}


@pytest.mark.slow
def test_a_fold_brings_a_flow_within_a_twentieth_of_a_nat_of_the_entropy(tmp_path: Path) -> None:
    """On checkerboard and eight Gaussians; the script itself fails when a NLL lies below what any density can reach."""
    found = excesses(run(ROOT / "examples" / "survae_toy.py", "--out", str(tmp_path), cwd=tmp_path))
    assert len(found) == 8
    assert found["checkerboard", "AbsFlow"] < 0.05
    assert found["eight Gaussians", "AbsFlow"] < 0.05


def test_excesses_are_read_off_the_report() -> None:
    line = "eight Gaussians AbsFlow     2.8319   3.0398 ± 0.0166  +0.2079    +0.2369 ± 0.0118        1"
    assert excesses(line) == {("eight Gaussians", "AbsFlow"): 0.2079}


@pytest.mark.parametrize("folder, table", [("examples", EXAMPLES), ("benchmarks", BENCHMARKS)])
def test_none_is_forgotten(folder: str, table: dict[str, str]) -> None:
    assert {path.name for path in (ROOT / folder).glob("*.py")} == set(table)


@pytest.mark.parametrize(
    "report, found", [("gap nan nats", ["nan"]), ("log p -inf", ["-inf"]), ("banana 0.7 info", [])]
)
def test_what_is_not_finite_is_seen(report: str, found: list[str]) -> None:
    assert not_finite(report) == found
