"""Images in a grid: samples of a model, and reconstructions beside their originals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.plots.axes import INK, array, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["images", "reconstructions"]

GAP = 1  # pixels between two images


def images(
    values: Any,
    *,
    columns: int | None = None,
    shape: tuple[int, ...] | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw images in a grid.

    Args:
        values: shape (n, H, W), (n, C, H, W) with C = 1 or 3, or (n, H*W) for square ones.
        columns: how many in a row; by default about as many as rows.
        shape: (H, W) or (C, H, W) of one image, for flat ones that are not square.
        limits: what is black and what is white; by default the least and the greatest value.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.
    """
    tiles = _tiles(values, shape)
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = _grid(tiles, rows, columns)[:-GAP, :-GAP]
    ax = axes_or_new(ax, size=_inches(sheet, columns))
    return _show(ax, sheet, limits or _limits(tiles))


def reconstructions(
    originals: Any,
    copies: Any,
    *,
    columns: int | None = None,
    shape: tuple[int, ...] | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw each original with its reconstruction below it.

    Args:
        originals: images, as for :func:`images`.
        copies: their reconstructions, same shape.
        columns: how many in a row; by default at most 12.
        shape: (H, W) or (C, H, W) of one image, for flat ones that are not square.
        limits: what is black and what is white; by default the least and the greatest original.
        ax: where to draw; by default a new figure.

    Returns:
        the axes.

    Raises:
        ValueError: if the two differ in shape.
    """
    above, below = _tiles(originals, shape), _tiles(copies, shape)
    if above.shape != below.shape:
        raise ValueError(
            f"reconstructions: originals and reconstructions must have one shape, got {above.shape} and {below.shape}"
        )
    columns = min(columns or 12, len(above))
    bands = [
        part for start in range(0, len(above), columns) for part in (above[start : start + columns],
                                                                     below[start : start + columns])
    ]  # fmt: skip
    sheet = np.concatenate([_grid(band, 1, columns) for band in bands])[:, :-GAP]
    width, height = _inches(sheet, columns)
    ax = axes_or_new(ax, size=(width + 1.25, height))
    _show(ax, sheet[:-GAP], limits or _limits(above))
    _name_bands(ax, ["data", "reconstructed"] * (len(bands) // 2), len(sheet) / len(bands))
    return ax


def _tiles(values: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """Images as (n, H, W, 3) for colour and (n, H, W, 1) for grey, float."""
    tiles = array(values).astype(float)
    if shape is not None:
        tiles = tiles.reshape(len(tiles), *shape)
    elif tiles.ndim == 2:
        side = math.isqrt(tiles.shape[1])
        if side * side != tiles.shape[1]:
            raise ValueError(f"images: {tiles.shape[1]} pixels are no square; give shape=(height, width)")
        tiles = tiles.reshape(len(tiles), side, side)
    if tiles.ndim == 3:
        tiles = tiles[:, None]
    if tiles.ndim != 4 or tiles.shape[1] not in (1, 3) or not len(tiles):
        raise ValueError(f"images: (n, H, W) or (n, C, H, W) with C = 1 or 3 is required, got {array(values).shape}")
    return tiles.transpose(0, 2, 3, 1)


def _inches(sheet: np.ndarray, columns: int) -> tuple[float, float]:
    """The size of a figure: 0.6 inches an image, less where there are many."""
    width = max(1.0, min(0.6 * columns, 8.0))
    return width, width * sheet.shape[0] / sheet.shape[1]


def _limits(tiles: np.ndarray) -> tuple[float, float]:
    low, high = float(tiles.min()), float(tiles.max())
    return (low, high) if high > low else (low, low + 1.0)


def _grid(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """One large image with gaps of NaN, which are drawn as background."""
    height, width, channels = tiles.shape[1:]
    sheet = np.full((rows, height + GAP, columns, width + GAP, channels), np.nan)
    for k, tile in enumerate(tiles):
        sheet[k // columns, :height, k % columns, :width] = tile
    return sheet.reshape(rows * (height + GAP), columns * (width + GAP), channels)


def _show(ax: Axes, sheet: np.ndarray, limits: tuple[float, float]) -> Axes:
    low, high = limits
    shades = np.clip((sheet - low) / (high - low), 0, 1)
    opaque = ~np.isnan(shades[..., :1])
    rgba = np.concatenate([np.broadcast_to(np.nan_to_num(shades), (*shades.shape[:2], 3)), opaque], axis=-1)
    ax.imshow(rgba, interpolation="nearest")
    ax.set_axis_off()
    return ax


def _name_bands(ax: Axes, names: list[str], height: float) -> None:
    for k, name in enumerate(names):
        ax.text(-1.5, (k + 0.5) * height - GAP, name, ha="right", va="center", color=INK, fontsize=9)
    ax.set_anchor("E")  # room for the words on the left, none on the right
