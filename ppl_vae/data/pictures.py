"""A folder of pictures as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_vae.data.columns import shortened
from ppl_vae.data.dataset import Dataset

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")

GREY_MODES, COLOUR_MODES = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
"""Pillow's names for pictures of at most 8 bits a channel."""


def load_pictures(folder: str | Path, *, grey: bool = False) -> Dataset:
    """Load the .png and .jpg files of a folder, all of one size, as numbers between 0 (black) and 1 (white).

    Sub-folders and files of other kinds are passed over. What is transparent counts as opaque.

    Args:
        folder: where they are.
        grey: make colours grey. By default pictures are (1, H, W) if all of them are grey, and (3, H, W) if none is.

    Returns:
        A :class:`Dataset` named after the folder, (N, C, H, W) float32, in the order of the names of the files, which
        are its index.

    Raises:
        ValueError: no pictures, one that cannot be read or has more than 8 bits, different sizes, grey pictures and
            coloured ones together.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f"; it has folders: {shortened(inside)}" if inside else ""
        raise ValueError(f"load_pictures: {folder} must hold pictures ({', '.join(SUFFIXES)}), and holds none{hint}")
    first = _read(paths[0], grey)
    rows = np.empty((len(paths), *first.shape), np.float32)
    for row, path in zip(rows, paths, strict=True):
        picture = _read(path, grey)
        if picture.shape[1:] != first.shape[1:]:
            sizes = " and ".join(f"{p.name} {a.shape[2]}x{a.shape[1]}" for p, a in ((paths[0], first), (path, picture)))
            raise ValueError(f"load_pictures: pictures of one size are required, {folder} has {sizes}")
        if picture.shape != first.shape:
            grey_one, other = (paths[0], path) if len(first) == 1 else (path, paths[0])
            raise ValueError(
                f"load_pictures: {folder} has grey pictures ({grey_one.name}) and coloured ones ({other.name}); "
                "--grey makes all of them grey"
            )
        row[:] = picture
    return Dataset(
        name=folder.resolve().name,
        train=torch.from_numpy(rows),
        image_shape=first.shape,
        unit="1 = white (255 of 255)",
        train_index=tuple(path.name for path in paths),
        index_name="file",
    )


def _read(path: Path, grey: bool) -> np.ndarray:
    """One picture, (C, H, W) from 0 to 1."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            plain = _plain(picture, path, grey)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"load_pictures: {path} must be a readable picture, got: {error}") from None
    array = np.asarray(plain, np.float32) / 255
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _plain(picture: Image.Image, path: Path, grey: bool) -> Image.Image:
    if picture.mode not in (*GREY_MODES, *COLOUR_MODES):
        raise ValueError(
            f"load_pictures: at most 8 bits a channel are required, {path} is of Pillow's mode {picture.mode}"
        )
    return picture.convert("L" if grey or picture.mode in GREY_MODES else "RGB")
