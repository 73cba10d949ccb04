"""The command line on a real table and on images: names are kept everywhere, and every recipe encodes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run, succeed

from ppl_vae import _arviz
from ppl_vae.recipes import RECIPES
from ppl_vae.storage import RunFolder


def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 40)
    frame = pd.DataFrame(
        {
            "id": [f"A{i:02d}" for i in range(40)],
            "date": pd.date_range("2024-01-01", periods=40).strftime("%Y-%m-%d"),
            "width": rng.normal(3 + kind, 0.5).round(3),
            "height": rng.normal(170 + 5 * kind, 4).round(2),
            "species": np.array(["setosa", "virginica"])[kind],
        }
    )
    frame.loc[7, "height"] = 999.5  # the odd one
    return frame


COLUMNS = ("--index", "id", "--label", "species", "--drop", "date")
SHORT = ("--epochs", 1, "--batch-size", 20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tables")
    frame = people()
    frame.to_csv(place / "people.csv", index=False)
    frame.to_csv(place / "europe.csv", index=False, sep=";", decimal=",")
    shuffled = frame[["species", "height", "date", "width", "id"]].assign(extra="word")
    shuffled.to_csv(place / "other.csv", index=False)
    frame.drop(columns=["width", "height"]).to_csv(place / "without.csv", index=False)
    frame[["height", "width"]].to_csv(place / "plain.csv", index=False)
    levels = (np.random.default_rng(1).random((30, 1, 4, 3)) * 4).round() / 4
    np.save(place / "grey.npy", levels)
    bits = np.random.default_rng(2).integers(0, 2, (30, 4, 3))
    np.savez(place / "bits.npz", train=bits, train_labels=bits[:, 0, 0])
    return place


@pytest.fixture(scope="module")
def fitted(place: Path) -> tuple[Path, str]:
    """A run of the table, and what the command said."""
    out = place / "run"
    return out, succeed("fit", "mixture-vae", "--data", place / "people.csv", *COLUMNS, *SHORT, "--out", out)


def test_all_bad_columns_come_in_one_message(place: Path, tmp_path: Path) -> None:
    result = run("fit", "vae", "--data", place / "people.csv", "--out", tmp_path / "run")
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["id", "date", "species"]
    assert lines[-1] == "all at once: --index id --label species --drop date"
    assert not (tmp_path / "run").exists()


def test_labels_are_measured_and_not_modelled(fitted: tuple[Path, str]) -> None:
    assert "train (32, 2), test (8, 2), 2 classes" in fitted[1]
    assert "adjusted Rand index" in fitted[1]


def test_a_table_has_figures_of_its_own(fitted: tuple[Path, str]) -> None:
    names = RunFolder(fitted[0]).names()
    assert {f"plots/{name}.png" for name in ("columns", "log_p", "clusters", "latent", "overview")} <= set(names)


def test_names_of_rows_and_columns_are_in_the_posterior(fitted: tuple[Path, str]) -> None:
    idata = _arviz.from_netcdf(fitted[0] / "posterior.nc")
    known = people().set_index("id")
    z, x = idata["posterior"]["z"], idata["observed_data"]["x"]
    assert z.dims == ("chain", "draw", "data", "z_dim_0")
    assert z.sizes["draw"] == 100 and z.dtype == np.float32
    assert idata["posterior_predictive"]["x"].sizes["draw"] == 10
    assert idata["sample_stats"]["log_p"].dtype == np.float64
    assert [str(name) for name in x["feature"].values] == ["width", "height"]
    rows = known.loc[[str(name) for name in x["data"].values], ["width", "height"]].to_numpy()
    assert np.corrcoef(rows[:, 0], x.values[:, 0])[0, 1] > 0.999


def test_the_odd_row_is_first_by_name_in_any_order_of_columns(fitted: tuple[Path, str], place: Path) -> None:
    tables = {}
    for source in ("people.csv", "europe.csv", "other.csv"):
        said = succeed("encode", fitted[0], place / source, "--out", place / "codes.csv")
        assert re.search(r"least log p, nats: A07 \(-\d+\.\d\), A", said)
        assert ("columns that the run has not are passed over: extra" in said) == (source == "other.csv")
        tables[source] = pd.read_csv(place / "codes.csv")
    first = tables["people.csv"]
    assert list(first.columns[:2]) == ["id", "z[0]"]
    assert list(first.columns[-5:]) == ["c", "species", "log_p", "standard_error", "khat"]
    assert first["log_p"].is_monotonic_increasing
    assert sorted(first["id"]) == sorted(people()["id"])
    assert dict(zip(first["id"], first["species"], strict=True)) == dict(
        zip(people()["id"], people()["species"], strict=True)
    )
    for other in tables.values():
        pd.testing.assert_frame_equal(first, other)


def test_its_own_rows_say_their_part(fitted: tuple[Path, str]) -> None:
    succeed("encode", fitted[0])
    table = pd.read_csv(fitted[0] / "codes.csv")
    assert table["part"].value_counts().to_dict() == {"train": 32, "test": 8}


def test_another_file_lacks_columns_or_names(fitted: tuple[Path, str], place: Path) -> None:
    for command in (
        ("encode", fitted[0], place / "without.csv"),
        ("evaluate", fitted[0], "--data", place / "without.csv"),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert "there is no 'width', 'height' among id, date, species" in " ".join(result.stderr.split())
    said = succeed("encode", fitted[0], place / "plain.csv", "--out", place / "plain-codes.csv")
    assert "there is no column 'species', and rows are without labels" in said
    assert "there is no column 'id', and rows are without names" in said
    assert pd.read_csv(place / "plain-codes.csv")["row"].iloc[0] == 7


def test_samples_have_the_names_of_the_columns(fitted: tuple[Path, str], tmp_path: Path) -> None:
    succeed("sample", fitted[0], "-n", 3, "--out", tmp_path / "a.csv")
    assert list(pd.read_csv(tmp_path / "a.csv").columns) == ["width", "height"]


def test_the_columns_are_those_of_the_run_when_it_is_resumed(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("fit", "vae", "--data", place / "people.csv", *COLUMNS, *SHORT, "--no-report", "--out", out)
    result = run("fit", "vae", "--resume", "--columns", "width", "--out", out)
    assert result.exit_code == 2
    assert "the run has --columns of none, got width; leave it out to resume" in result.stderr
    succeed("fit", "vae", "--resume", "--epochs", 2, "--label", "species", "--no-report", "--out", out)
    assert RunFolder(out).read_json("config.json")["fit"]["source"]["label"] == "species"


OF_RECIPE = {
    "vae": ("people.csv", ("--latent-dim", 2), ["id", "part", "z[0]", "z[1]", "species"]),
    "vae-flow": ("people.csv", ("--latent-dim", 2), ["id", "part", "z[0]", "z[1]", "species"]),
    "mixture-vae": ("people.csv", ("--latent-dim", 2), ["id", "part", "z[0]", "z[1]", "c", "species"]),
    "discrete-vae": ("people.csv", ("--num-classes", 3), ["id", "part", "c", "species"]),
    "ss-vae": ("people.csv", ("--latent-dim", 2), ["id", "part", "z[0]", "z[1]", "y", "species"]),
    "flow": ("people.csv", (), ["id", "part", "z[0]", "z[1]", "species"]),
    "survae": ("grey.npy", (), ["row", "part", *(f"z[{i}]" for i in range(12))]),
}


def test_no_recipe_is_forgotten() -> None:
    assert set(OF_RECIPE) == set(RECIPES)


@pytest.mark.parametrize("recipe", OF_RECIPE)
def test_every_recipe_encodes(recipe: str, place: Path, tmp_path: Path) -> None:
    source, sizes, columns = OF_RECIPE[recipe]
    choice = COLUMNS if source == "people.csv" else ()
    out = tmp_path / "run"
    succeed("fit", recipe, "--data", place / source, *choice, *SHORT, *sizes, "--no-report", "--out", out)
    succeed("encode", out, "--num-samples", 40)
    table = pd.read_csv(out / "codes.csv")
    assert list(table.columns) == [*columns, "log_p", "standard_error", "khat"]
    assert table["log_p"].is_monotonic_increasing and np.isfinite(table["log_p"]).all()
    if recipe == "ss-vae":
        assert set(table["y"]) <= {"setosa", "virginica"}


def test_images_are_shown_as_images_and_encoded(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = succeed("fit", "vae", "--data", place / "bits.npz", *SHORT, "--report-seconds", 1, "--out", out)
    assert "images 1x4x3" in said
    assert {"plots/samples.png", "plots/reconstructions.png"} <= set(RunFolder(out).names())
    assert "plots/columns.png" not in RunFolder(out).names()
    succeed("encode", out, "--out", tmp_path / "codes.csv")
    assert list(pd.read_csv(tmp_path / "codes.csv").columns[[0, 1, -4]]) == ["row", "part", "label"]


def test_columns_are_not_chosen_in_data_without_a_file(tmp_path: Path) -> None:
    result = run("fit", "vae", "--data", "iris", "--drop", "0", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "iris: columns are chosen, and pictures made grey, in a file of your own" in result.stderr


# the report


def test_without_a_report_there_are_weights_and_no_numbers(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = succeed("fit", "vae", "--data", place / "people.csv", *COLUMNS, *SHORT, "--no-report", "--out", out)
    assert "nats per datum" not in said
    names = RunFolder(out).names()
    assert "model.safetensors" in names and "posterior.nc" not in names
    assert not any(name.startswith("plots/") for name in names)
    assert "nats per datum" in succeed("evaluate", out)


@pytest.mark.parametrize("draws", [0, 30])
def test_the_draws_in_the_file_are_as_many_as_asked_for(draws: int, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("fit", "flow", "--data", place / "people.csv", *COLUMNS, *SHORT, "--draws", draws, "--out", out)
    assert ("posterior.nc" in RunFolder(out).names()) == bool(draws)
    if draws:
        assert _arviz.from_netcdf(out / "posterior.nc")["posterior"].sizes["draw"] == 30
