"""A run of a recipe takes and gives data in their own units, by the commands and by ``ppl_vae.load``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.commands.opening import open_run
from ppl_vae.data import Dataset, load_digits
from ppl_vae.loading import _units
from ppl_vae.recipes.scale import Scale, refuse_few_values
from ppl_vae.recipes.sources import open_source
from ppl_vae.storage import RunFolder, StorageError, read_json

INK = load_digits().train[:60].reshape(-1, 8, 8)
GREY = (INK * 255).round().numpy().astype(np.uint8)
MEAN, SD = np.array([170.0, -3.0, 1e4]), np.array([8.0, 0.01, 3e3])


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """Three runs, with few draws in their reports."""
    place = tmp_path_factory.mktemp("scale")
    table = np.random.default_rng(0).normal(size=(60, 3)) * SD + MEAN
    np.save(place / "table.npy", table)
    np.save(place / "grey.npy", GREY)
    np.save(place / "fractions.npy", GREY.astype(np.float32) / 255)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppl_vae.recipes.budget.MOST_SAMPLES", 300)
        patch.setattr("ppl_vae.commands.posterior.MOST_ROWS", 20)
        patch.setattr("ppl_vae.commands.fitting.figures", lambda *_, **__: {})
        for name in ("vae-table", "flow-table", "vae-grey"):
            recipe, data = name.split("-")
            said = run("fit", recipe, "--data", place / f"{data}.npy", "--epochs", 2, "--out", place / name)
            (place / f"{name}.txt").write_text(said)
        yield place


def numbers(folder: Path) -> dict:
    return read_json(folder / "config.json")["fit"]["results"]["test"]


@pytest.mark.parametrize("name", ["vae-table", "flow-table", "vae-grey"])
def test_a_loaded_run_and_the_commands_agree(place, name):
    fit, opened = ppl_vae.load(place / name), open_run(place / name)
    rows = open_source(opened.plan.data).test
    assert torch.equal(opened.dataset().test, rows)
    # samples: those of the command are in the units of the data, and so are those of the loaded run
    run("sample", place / name, "-n", 500, "--seed", 3)
    drawn = fit.sample(500, seed=3)
    assert np.array_equal(drawn.numpy(), np.load(place / name / "samples.npy"))
    flat = rows.flatten(1)
    assert ((drawn.flatten(1).mean(0) - flat.mean(0)).abs() < 60 * flat.std(0) / 8 + 40 * (name == "vae-grey")).all()
    # densities are those of the card and of evaluate
    mean = float(fit.elbo(rows, num_samples=400, seed=1).mean())
    assert abs(mean - numbers(place / name)["elbo"]) < 0.5
    assert f"{numbers(place / name)['elbo']:.3f}" in run("evaluate", place / name)
    # back and forth
    codes = fit.encode(rows)
    copies = fit.reconstruct(rows)
    torch.testing.assert_close(copies, fit.decode(codes), rtol=1e-4, atol=1e-3)
    assert copies.shape == rows.shape
    lines = fit.interpolate(rows[:2], rows[2:4], 3)
    torch.testing.assert_close(lines[:, 0], copies[:2], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["vae-table", "vae-grey"])
def test_inference_data_are_in_the_units_of_the_data(place, name):
    fit = ppl_vae.load(place / name)
    rows = open_source(open_run(place / name).plan.data).test[:4]
    idata = fit.to_inference_data(rows, num_samples=40, num_predictive=40)
    observed, predicted = idata["observed_data"]["x"].values, idata["posterior_predictive"]["x"].values
    np.testing.assert_allclose(observed, rows.numpy(), rtol=1e-5, atol=1e-4)
    middle, spread = (MEAN, SD) if name == "vae-table" else (100.0, 100.0)
    assert (abs(predicted.mean((0, 1, 2)) - middle) < 3 * spread).all()
    with h5py.File(place / name / "posterior.nc") as saved:
        assert np.allclose(saved["observed_data"]["x"][:4], rows.numpy(), rtol=1e-5, atol=1e-4)


def test_a_flow_of_a_loaded_run_has_the_density_of_the_standardized_columns(place):
    """And log p per unit of the columns is less by the sum of log standard deviations."""
    fit = ppl_vae.load(place / "flow-table")
    rows = open_source(str(place / "table.npy")).test
    scale = fit.pair.units
    inner = ppl_vae.Pair(fit.model, fit.guide)
    inner.initialize(scale.forward(rows))
    torch.testing.assert_close(fit.log_evidence(rows).value, ppl_vae.log_evidence(inner, scale.forward(rows)).value)
    again = fit.rows(rows)  # rows that the fit has taken are in the units of the model, and are not changed again
    torch.testing.assert_close(fit.log_evidence(again).value, fit.log_evidence(rows).value)


def test_rows_that_stay_where_they_are_are_scaled_as_they_are_read(place):
    fit = ppl_vae.load(place / "vae-grey")
    stored = np.load(place / "grey.npy", mmap_mode="r")
    torch.testing.assert_close(fit.encode(stored), fit.encode(np.load(place / "grey.npy")))


def test_grey_levels_are_scaled_with_a_word(place):
    """They were not: an ELBO of -113,336."""
    said = (place / "vae-grey.txt").read_text()
    assert "unit: whole numbers 0..255, divided by 255 for the model" in said
    assert numbers(place / "vae-grey")["elbo"] > -100
    assert ppl_vae.load(place / "vae-grey").sample(50).abs().max() > 50
    with pytest.raises(ValueError, match=r"grey levels 0..255 as in the run, got fractions from 0 to 1"):
        ppl_vae.load(place / "vae-grey").encode(np.load(place / "fractions.npy"))
    result = CliRunner().invoke(main, ["evaluate", str(place / "vae-grey"), "--data", str(place / "fractions.npy")])
    assert result.exit_code == 2 and "got fractions from 0 to 1" in result.output


@pytest.mark.parametrize(
    ("train", "scale"),
    [
        (torch.from_numpy(GREY).float(), Scale([], [], 255)),
        ((INK * 16).flatten(1), Scale([], [], 16)),
        ((INK > 0.5).float() * 255, Scale([], [], 255)),
        ((INK > 0.5).float(), None),
        (INK, None),
    ],
)
def test_which_scale_images_have(train, scale):
    found = Scale.of(Dataset(name="images", train=train))
    assert found == scale
    if scale is not None:
        seen = found.forward(train)
        assert seen.max() == 1 and torch.equal(found.undo(seen).round(), train)


def test_a_table_with_a_header_is_a_table():
    rows = (INK * 16).flatten(1)
    names = tuple(f"count {i}" for i in range(64))
    assert Scale.of(Dataset(name="table", train=rows, feature_names=names)).top is None


def test_a_flow_refuses_columns_of_few_values_by_name(tmp_path):
    """They passed: standardized, zeros and ones are real numbers, and the density of a flow on them has no bound."""
    generator = np.random.default_rng(0)
    table = np.stack([generator.normal(size=60), generator.integers(0, 2, 60), generator.integers(0, 5, 60)], 1)
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header="height,sex,children", comments="")
    result = CliRunner().invoke(
        main, ["fit", "flow", "--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 2
    assert "column 'sex' (its values are 0 and 1)" in result.output
    assert "column 'children' (it has 5 whole numbers from 0 to 4)" in result.output
    assert "height" not in result.output
    counts = Dataset(name="counts", train=torch.from_numpy(table[:, 1:]).float())
    with pytest.raises(ValueError, match="flow: real numbers are required.* take the recipe survae"):
        refuse_few_values(counts, "flow")


@pytest.mark.parametrize("scale", [{"middle": [0.0]}, {"mean": ["a"], "sd": [1.0]}, {"mean": [0.0], "sd": []}, [1]])
def test_a_damaged_scale_is_named(scale, tmp_path):
    with pytest.raises(StorageError, match=r"config.json: a scale of columns .* is required, got"):
        _units({"fit": {"source": {"scale": scale}}}, RunFolder(tmp_path))
    older = {"fit": {"source": {"scale": {"mean": [1.0], "sd": [2.0]}}}}
    assert _units(older, RunFolder(tmp_path)) == Scale([1.0], [2.0])
    assert _units({"fit": {}}, RunFolder(tmp_path)) is None
