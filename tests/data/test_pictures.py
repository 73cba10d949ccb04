"""Folders of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppl_vae.data import load_file
from ppl_vae.data.pictures import load_pictures

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], 2)


def save(folder, **pictures):
    for name, array in pictures.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    return folder


def test_grey_pictures_are_rows_by_name_from_0_to_1(tmp_path):
    (tmp_path / "notes.txt").write_text("passed over")
    data = load_file(save(tmp_path, b=GREY, a=GREY[::-1]))
    assert data.train.shape == (2, 1, 4, 5)
    assert (data.image_shape, data.train_index) == ((1, 4, 5), ("a.png", "b.png"))
    assert np.allclose(data.train[1, 0], GREY / 255)


def test_colours_stay_or_are_made_grey(tmp_path):
    save(tmp_path, a=COLOUR, b=COLOUR)
    assert np.allclose(load_pictures(tmp_path).train[0], COLOUR.transpose(2, 0, 1) / 255)
    assert load_pictures(tmp_path, grey=True).train.shape == (2, 1, 4, 5)


REFUSED = {
    "none": (lambda folder: (folder / "inside").mkdir(), "holds none; it has folders: inside"),
    "two sizes": (lambda folder: save(folder, a=GREY, b=GREY[:3]), "one size are required, .* a.png 5x4 and b.png 5x3"),
    "both kinds": (lambda folder: save(folder, a=COLOUR, b=GREY), r"grey pictures \(b.png\) .* \(a.png\); --grey"),
    "16 bits": (lambda folder: save(folder, a=GREY.astype(np.uint16)), "at most 8 bits a channel .* mode I;16"),
    "no picture": (lambda folder: (folder / "a.png").write_text("x"), "a.png must be a readable picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said(tmp_path, name):
    make, words = REFUSED[name]
    make(tmp_path)
    with pytest.raises(ValueError, match=f"load_pictures: .*{words}"):
        load_pictures(tmp_path)


def test_columns_are_not_chosen_among_pictures(tmp_path):
    with pytest.raises(ValueError, match="columns are chosen in a table, got images"):
        load_file(save(tmp_path, a=GREY), drop="a")
