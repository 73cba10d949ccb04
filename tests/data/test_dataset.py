"""The one class that every loader returns."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ppl_vae.data import Dataset, Rows, load_digits


def test_repr_says_what_there_is():
    assert repr(Dataset(name="own", train=torch.zeros(5, 2))) == "Dataset(own, train (5, 2))"


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_digits().train = None


def test_dims_and_coords_fit_the_rows():
    digits = load_digits()
    own = Dataset(name="own", train=torch.zeros(5, 2, 3))
    for data in (digits, digits.as_images(), own):
        datum, *names = data.dims["x"]
        assert datum == "datum"
        assert tuple(len(data.coords[name]) for name in names) == data.event_shape
    assert digits.coords["pixel"][9] == "pixel_1_1"
    assert digits.as_images().dims == {"x": ["datum", "channel", "row", "column"]}


def test_images_are_the_rows_and_come_back():
    data = load_digits(binary=True)
    images = data.as_images()
    assert images.train.shape == (1500, 1, 8, 8)
    assert images.test.shape == (297, 1, 8, 8)
    assert torch.equal(images.train.flatten(1), data.train)
    assert torch.equal(images.train_labels, data.train_labels)


def test_the_rows_are_data_for_a_pair():
    data = load_digits()
    assert len(Rows.of((data.train, data.train_labels))) == 1500


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test": torch.zeros(3, 4)}, r"test must be \(M, 2\) as train is, got \(3, 4\)"),
        ({"train_labels": torch.zeros(4)}, r"train_labels must be \(5,\), got \(4,\)"),
        ({"test_labels": torch.zeros(4)}, r"test_labels must be absent without test rows, got \(4,\)"),
        ({"image_shape": (1, 2, 2)}, r"image_shape must hold 2 entries, got \(1, 2, 2\)"),
        ({"feature_names": ("a",)}, r"\(2,\) needs as many feature_names, got 1"),
    ],
)
def test_parts_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match="Dataset: " + message):
        Dataset(name="own", train=torch.zeros(5, 2), **fields)


def test_rows_that_are_no_images():
    with pytest.raises(ValueError, match="as_images needs an image_shape, and own has none"):
        Dataset(name="own", train=torch.zeros(5, 2)).as_images()
