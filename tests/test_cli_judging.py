"""``ppl-vae diagnose`` and ``compare``: what they say and write, and the exit code that ``--strict`` makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import run, succeed

OWN = '''
import pyro, pyro.distributions as dist, torch

def pair(loc, width):
    def model(x):
        mean = pyro.param("mean", torch.tensor(loc))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mean.expand(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        """With width 1 the posterior: precision 2, half way between the mean and x."""
        scale = pyro.param("scale", torch.tensor(width * 0.5**0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + loc) / 2, scale).to_event(1))

    return model, guide

def good(data):
    return pair(0.0, 1.0)

def narrow(data):
    return pair(0.0, 0.4)

def elsewhere(data):
    return pair(1.0, 1.0)

def words(data):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(1.0).expand([2]).to_event(1), obs=x.abs().round())
    return model, lambda x: None
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of pairs whose answers are known: a step that hardly moves them from where they begin."""
    place = tmp_path_factory.mktemp("judging")
    (place / "mine.py").write_text(OWN)
    table = np.random.default_rng(0).normal(size=(300, 2)) * 2**0.5
    names = [f"row {i}" for i in range(300)]
    lines = [f"{name},{a:.6f},{b:.6f}" for name, (a, b) in zip(names, table, strict=True)]
    (place / "data.csv").write_text("\n".join(["name,a,b", *lines]))
    for name in ("good", "narrow", "elsewhere"):
        fit(place, name)
    return place


def fit(place: Path, name: str, *options: object) -> None:
    source = ("--data", place / "data.csv", "--index", "name")
    steps = ("--epochs", 1, "--lr", 1e-7, "--no-report", "--out", place / name)
    succeed("fit", f"{place / 'mine.py'}:{name}", *source, *steps, *options)


def own(place: Path, name: str) -> tuple[object, ...]:
    return ("--pair", f"{place / 'mine.py'}:{name}")


def test_a_run_is_diagnosed_and_its_page_written(place: Path) -> None:
    said = succeed("diagnose", place / "good", *own(place, "good"), "--strict")
    assert said.startswith("Diagnosis: ") and said.strip().endswith(str(place / "good" / "diagnosis.html"))
    assert "  good        guide" in said and "60 of 60 test rows" in said and "not asked   both sides" in said
    page = (place / "good" / "diagnosis.html").read_text()
    assert "60 test rows; beside 240 rows of the fit" in page and "row " in page


def test_strict_is_an_exit_code(place: Path, tmp_path: Path) -> None:
    page = ("--out", tmp_path / "page.html")
    found = run("diagnose", place / "narrow", *own(place, "narrow"), "--strict", *page)
    assert found.exit_code == 1 and "  bad         calibration" in found.output and (tmp_path / "page.html").exists()
    assert run("diagnose", place / "narrow", *own(place, "narrow"), *page).exit_code == 0


def test_other_data_are_diagnosed_beside_those_of_the_run(place: Path, tmp_path: Path) -> None:
    lines = (place / "data.csv").read_text().splitlines()[:41]
    lines[7] = "stray,90.0,-80.0"
    (tmp_path / "new.csv").write_text("\n".join(lines))
    given = ("--data", tmp_path / "new.csv", "--out", tmp_path / "new.html", "--seconds", 20)
    said = succeed("diagnose", place / "good", *own(place, "good"), *given)
    assert "  doubtful    odd rows" in said and "  doubtful    new rows" in said
    assert "1 of 40 rows lies far below all others, and makes 9" in said and "row stray" in said
    assert "without 1 of 40 rows (row stray)" in said and "stray" in (tmp_path / "new.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "page.txt"], "page.txt: the suffix must be .html"),
        (["--pair", "mine.py:good", "--data", "nowhere.csv"], "nowhere.csv"),
        ([], "name it again with --pair"),
        (["--seconds", "0"], "seconds"),
    ],
)
def test_bad_input_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str) -> None:
    monkeypatch.chdir(place)
    found = run("diagnose", place / "good", *options)
    assert found.exit_code == 2 and message in found.output and "Traceback" not in found.output


# compare


@pytest.fixture
def recipes(place: Path) -> tuple[Path, Path]:
    """A flow and a VAE, after some epochs."""
    folders = place / "flow", place / "vae"
    for folder, recipe in zip(folders, ("flow", "vae"), strict=True):
        if not folder.exists():
            source = ("--data", place / "data.csv", "--index", "name")
            succeed("fit", recipe, *source, "--epochs", 5, "--no-report", "--out", folder)
    return folders


def test_runs_are_ranked_and_held_against_the_first(recipes: tuple[Path, Path]) -> None:
    flow, vae = recipes  # the data are a normal, which the VAE has from the start
    said = succeed("compare", flow, vae, "--strict")
    assert f"of 2 fits '{vae}' predicts 60 rows held out best" in said
    assert f"{vae}: " in said and f"nats per row above {flow}" in said
    found = run("compare", vae, flow, "--strict")
    assert found.exit_code == 1 and f"nats per row below {vae}" in found.output
    assert run("compare", vae, flow).exit_code == 0
    assert "taken on trust" not in said


def test_the_difference_is_that_of_the_exact_densities(place: Path) -> None:
    """log N(x; 0, 2) against log N(x; 1, 2), of the rows that were held out."""
    from ppl_vae.commands.comparing import compare_runs
    from ppl_vae.commands.opening import open_run

    runs = {name: open_run(place / name, pair=f"{place / 'mine.py'}:{name}") for name in ("good", "elsewhere")}
    found = compare_runs(runs)
    x = runs["good"].dataset().test
    assert x is not None and len(x) == 60
    apart = ((x**2).sum(1) - ((x - 1) ** 2).sum(1)) / 4
    assert found.beside_first["elsewhere"].value == pytest.approx(float(apart.mean()), abs=1e-3)
    assert found.beside_first["elsewhere"].error == pytest.approx(float(apart.std()) / 60**0.5, rel=0.02)
    assert found.worse == ["elsewhere"] and found.ranking.table.index[0] == "good"


def test_what_cannot_be_compared_is_refused(place: Path, recipes: tuple[Path, Path], tmp_path: Path) -> None:
    flow, _ = recipes
    for arguments, message in (
        ((flow,), "two runs at least are required"),
        ((flow, flow), "two runs at least are required"),
        ((flow, place / "good", *own(place, "good")), "observe other numbers"),  # columns are standardized in one
    ):
        found = run("compare", *arguments)
        assert found.exit_code == 2 and message in found.output.replace("\n", " "), found.output
    succeed(
        "fit", "flow", "--data", "iris", "--epochs", 1, "--no-report", "--num-layers", 2, "--out", tmp_path / "iris"
    )
    found = run("compare", flow, tmp_path / "iris")
    assert found.exit_code == 2 and "these runs are of other data" in found.output


def test_help_has_examples() -> None:
    for command in ("diagnose", "compare"):
        text = succeed(command, "--help")
        assert "Examples:" in text and f"ppl-vae {command} runs/" in text and "--strict" in text
