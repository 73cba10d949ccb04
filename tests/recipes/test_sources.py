"""Where data come from, by a short text; the held-out rows and the standardization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae.data import Dataset
from ppl_vae.recipes.scale import Scale
from ppl_vae.recipes.sources import NAMED, open_source


@pytest.mark.parametrize("name", NAMED)
def test_every_named_source_has_train_and_test_rows(name: str) -> None:
    dataset = open_source(name)
    assert len(dataset.train) > 3 * len(dataset.test) > 0
    assert len(dataset.train_labels) == len(dataset.train)
    assert len(dataset.test_labels) == len(dataset.test)


def test_held_out_rows_are_rows_of_the_data_and_always_the_same(tmp_path: Path) -> None:
    table = np.arange(60.0).reshape(30, 2)
    np.save(tmp_path / "a.npy", table)
    torch.manual_seed(1)
    first = open_source(str(tmp_path / "a.npy"))
    torch.manual_seed(2)
    again = open_source(str(tmp_path / "a.npy"))
    assert torch.equal(first.test, again.test)
    assert (len(first.train), len(first.test)) == (24, 6)
    together = torch.cat([first.train, first.test])
    assert torch.equal(together[together[:, 0].argsort()], torch.tensor(table, dtype=torch.float32))


def test_of_few_rows_none_is_held_out(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((19, 2)))
    assert open_source(str(tmp_path / "a.npy")).test is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", r"unknown data 'digit'; did you mean digits or grey-digits\?"),
        ("mnits:data", "unknown data 'mnits:data'; did you mean mnist:DIR"),
        ("absent.csv", "absent.csv must be a file or a folder of pictures, and there is none"),
        ("mnist:absent", "absent must hold train-images-idx3-ubyte"),
    ],
)
def test_unknown_data_are_refused(text: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(text)


def test_a_scale_brings_columns_to_mean_0_and_sd_1_and_back() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 3, generator=generator) * torch.tensor([1e-3, 1.0, 1e4]) + torch.tensor([0.0, 5.0, 1e5])
    dataset = Dataset(name="table", train=rows, test=rows[:5])
    scale = Scale.of(dataset)
    scaled = scale.apply(dataset)
    assert torch.allclose(scaled.train.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(scaled.train.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert torch.allclose(scale.undo(scaled.test), dataset.test, rtol=1e-5)
    assert "standard deviations" in scaled.unit


def test_a_constant_column_stays_finite() -> None:
    dataset = Dataset(name="table", train=torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]]))
    assert Scale.of(dataset).apply(dataset).train.abs().max() < 2


def test_zeros_and_ones_and_images_are_left_as_they_are() -> None:
    assert Scale.of(open_source("digits")) is None
    assert Scale.of(Dataset(name="images", train=torch.rand(5, 16), image_shape=(1, 4, 4))) is None


def test_a_scale_refuses_other_columns() -> None:
    with pytest.raises(ValueError, match="the data must have 1 columns as in the run, got"):
        Scale([0.0], [1.0]).apply(Dataset(name="table", train=torch.ones(3, 2)))
