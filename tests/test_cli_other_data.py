"""The command line on other data than those of the run: what they are held against, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run, succeed

from ppl_vae.recipes.sources import open_source

STANDARD_NORMAL = """
import pyro, torch
import pyro.distributions as dist

def pair(data):
    def model(x):
        shift = pyro.param("shift", torch.zeros(2))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(shift + 0 * z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

    return model, guide
"""


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of x ~ N(0, 1) in two columns, and other rows around (3, 3)."""
    place, rng = tmp_path_factory.mktemp("normal"), np.random.default_rng(0)
    (place / "mine.py").write_text(STANDARD_NORMAL)
    for name, mean, count in (("own", 0.0, 400), ("other", 3.0, 60), ("moved", 0.0, 60)):
        pd.DataFrame(rng.normal(mean, 1, (count, 2)), columns=["a", "b"]).to_csv(place / f"{name}.csv", index=False)
    moved = ("fit", f"{place}/mine.py:pair", "--data", place / "moved.csv", "--epochs", 1, "--lr", 1e-6)
    succeed(*moved, "--no-report", "--out", place / "moved")
    (place / "moved.csv").unlink()
    own = ("fit", f"{place}/mine.py:pair", "--data", place / "own.csv", "--epochs", 1, "--lr", 1e-6)
    succeed(*own, "--no-report", "--out", place / "own")
    return place


def test_other_rows_are_one_column_and_held_against_the_rows_trained_on(normal: Path) -> None:
    pair = ("--pair", f"{normal}/mine.py:pair")
    said = succeed("evaluate", normal / "own", "--data", normal / "other.csv", *pair)
    assert re.search(r"^nats per datum +rows \(60 rows, K = \d+\)$", said, re.MULTILINE)
    # Two columns, each further out by 3: E[log p] is less by 2 * 9/2 = 9 nats, up to the draw of the samples.
    train, others = open_source(str(normal / "own.csv")).train, pd.read_csv(normal / "other.csv").to_numpy()
    expected = 0.5 * (np.square(others).sum(1).mean() - float(train.square().sum(1).mean()))
    found = re.search(r"rows score ([\d.]+) ± [\d.]+ nats per row below the training rows", said)
    assert found, said
    assert float(found[1]) == pytest.approx(expected, abs=0.06)  # it is shown to a tenth
    assert "test rows" not in said and "above independent columns" in said


def test_where_the_data_of_the_run_are_gone_nothing_is_said_of_them(normal: Path) -> None:
    pair = ("--pair", f"{normal}/mine.py:pair")
    said = succeed("evaluate", normal / "moved", "--data", normal / "other.csv", *pair)
    assert "cannot be read: nothing is said of its training rows" in said
    assert said.count("training rows") == 1 and "rows score" not in said


# the columns of a table of codes


def clashing(path: Path, *, index: str, label: str, rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, rows)
    frame = pd.DataFrame(
        {
            index: [f"R{i}" for i in range(rows)],
            "a": rng.normal(3 * kind, 1).round(3),
            "b": rng.normal(0, 1, rows).round(3),
            label: np.array(["copper", "zinc"])[kind],
        }
    )
    frame.to_csv(path, index=False)
    return frame


@pytest.mark.parametrize(
    ("index", "label", "expected"),
    [
        ("part", "c", ["part (index)", "part", "c", "c (label)"]),
        ("log_p", "khat", ["log_p (index)", "part", "c", "khat (label)"]),
        ("c", "log_p", ["c (index)", "part", "c", "log_p (label)"]),
        ("id", "metal", ["id", "part", "c", "metal"]),
    ],
)
def test_no_column_of_the_codes_replaces_another(index: str, label: str, expected: list[str], tmp_path: Path) -> None:
    frame, out = clashing(tmp_path / "t.csv", index=index, label=label), tmp_path / "run"
    options = ("--index", index, "--label", label, "--num-classes", 2, "--epochs", 1, "--no-report")
    succeed("fit", "discrete-vae", "--data", tmp_path / "t.csv", *options, "--out", out)
    said = succeed("encode", out)
    table = pd.read_csv(out / "codes.csv")
    assert list(table.columns) == [*expected, "log_p", "standard_error", "khat"]
    assert set(table["part"]) == {"train", "test"} and set(table["c"]) <= {0, 1}
    assert np.isfinite(table["log_p"]).all()
    found = dict(zip(table[expected[0]], table[expected[3]], strict=True))
    assert found == dict(zip(frame[index], frame[label], strict=True))
    for name, given, role in ((expected[0], index, "index"), (expected[3], label, "label")):
        assert (f"there are two columns {given!r}: the {role} is called {name!r}" in said) == (name != given)


def test_a_class_that_the_run_has_not_is_said_and_kept(tmp_path: Path) -> None:
    frame, out = clashing(tmp_path / "t.csv", index="id", label="metal"), tmp_path / "run"
    options = ("--index", "id", "--label", "metal", "--num-labels", 10, "--epochs", 1, "--no-report")
    succeed("fit", "ss-vae", "--data", tmp_path / "t.csv", *options, "--out", out)
    frame.loc[3:5, "metal"] = "platinum"
    frame.to_csv(tmp_path / "new.csv", index=False)
    said = succeed("encode", out, tmp_path / "new.csv", "--num-samples", 20)
    assert "column 'metal' has a class that the run has not: 'platinum' (3 rows)" in said
    table = pd.read_csv(out / "codes.csv")
    found = dict(zip(table["id"], table["metal"], strict=True))
    assert found == dict(zip(frame["id"], frame["metal"], strict=True))
    frame.assign(metal="platinum").to_csv(tmp_path / "new.csv", index=False)
    said = succeed("evaluate", out, "--data", tmp_path / "new.csv", "--report-seconds", 0.5)
    assert "a class that the run has not: 'platinum' (40 rows)" in said and "accuracy" not in said


def test_a_run_is_not_resumed_on_an_edited_file_and_says_so_in_words(tmp_path: Path) -> None:
    path, out = tmp_path / "t.csv", tmp_path / "run"
    frame = clashing(path, index="id", label="metal")
    succeed("fit", "vae", "--data", path, "--drop", "id,metal", "--epochs", 1, "--no-report", "--out", out)
    frame.loc[3, "a"] = 7.25
    frame.to_csv(path, index=False)
    result = run("fit", "vae", "--resume", "--epochs", 2, "--no-report", "--out", out)
    assert result.exit_code == 2
    said = result.stderr.strip().removeprefix("Error: ")
    words = f"the rows of {path} (columns a, b) are not those of the run"
    assert said == f"resume: the checkpoint is of another run ({words})"
