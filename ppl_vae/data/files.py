"""A person's own data: a csv, npy or npz file, or a folder of pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.columns import Columns
from ppl_vae.data.csv_file import Cells, read_cells
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.pictures import load_pictures
from ppl_vae.data.table import dataset_of

_NPZ_NAMES = ("train", "test", "train_labels", "test_labels")


def load_file(
    path: str | Path,
    *,
    columns: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    label: str | None = None,
    index: str | None = None,
    class_names: Sequence[str] | None = None,
    grey: bool = False,
) -> Dataset:
    """Load rows of numbers from a ``.csv``, ``.npy`` or ``.npz`` file, or a folder of pictures.

    - csv: one datum a line, with or without a line of column names; commas, semicolons (then numbers may have decimal
      commas) or tabs between cells;
    - npy: one array, axis 0 is the datum; a plain vector (N,) becomes (N, 1); (N, H, W), (N, C, H, W) and
      (N, H, W, C) with C = 1 or 3 are images, which become (N, H, W) and (N, C, H, W);
    - npz: one array under any name, or ``train`` and, where there are, ``test``, ``train_labels``,
      ``test_labels``;
    - a folder: its .png and .jpg files, from 0 (black) to 1 (white); see :func:`ppl_vae.data.pictures.load_pictures`.

    Nothing in the file is executed: arrays of Python objects are refused.

    Args:
        path: the file; its suffix says the format.
        columns: of a table, the columns to model, by name (in a csv file without names, and in an array (N, D), by
            number); by default all that have no other role. A text with commas names several.
        drop: columns to leave out.
        label: a column of classes (words, whole numbers), kept as labels.
        index: a column of names of rows, kept as ``train_index``.
        class_names: the classes by number, for files in which not all may occur; others have no number (-1).
        grey: of a folder: make coloured pictures grey.

    Returns:
        A :class:`Dataset` named after the file, float32, all rows in ``train`` unless an npz file says
        otherwise.

    Raises:
        FileNotFoundError: there is no such file.
        ColumnsError: a ValueError that lists every column of a csv file that is no numbers, with what to do about it.
        ValueError: an unknown suffix, an unreadable or empty file, something that is no number, or a number
            that is not finite (with its row, counted from 0 after the header, and its column).
    """
    path = Path(path)
    choice = Columns(_texts(columns), _texts(drop), label, index)
    if path.is_dir():
        _refuse_columns(choice, path)
        return load_pictures(path, grey=grey)
    if grey:
        raise ValueError(f"load_file: {path} must be a folder of pictures to be made grey")
    if not path.is_file():
        raise FileNotFoundError(f"load_file: {path} must be a file or a folder of pictures, and there is none")
    if path.suffix.lower() == ".csv":
        return dataset_of(read_cells(path), choice, name=path.stem, where=str(path), class_names=class_names)
    readers: dict[str, Callable[[Path], Dataset]] = {".npy": _read_npy, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"load_file: the suffix must be one of .csv, {', '.join(readers)}, got {path.name}")
    dataset = readers[path.suffix.lower()](path)
    return _chosen(dataset, choice, path, class_names) if choice != Columns() else dataset


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _refuse_columns(choice: Columns, path: Path) -> None:
    if choice != Columns():
        raise ValueError(f"load_file: {path}: columns are chosen in a table, got images")


def _chosen(dataset: Dataset, choice: Columns, path: Path, class_names: Sequence[str] | None) -> Dataset:
    """A choice of columns of an array (N, D), by their numbers."""
    import pandas as pd

    if dataset.train.dim() != 2 or dataset.test is not None:
        _refuse_columns(choice, path)
    frame = pd.DataFrame(dataset.train.numpy())
    cells = Cells(tuple(str(i) for i in range(frame.shape[1])), frame, has_header=False)
    return dataset_of(cells, choice, name=dataset.name, where=str(path), class_names=class_names)


def _read_npy(path: Path) -> Dataset:
    array = _load_numpy(path)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"load_file: {path} must hold one array, got {type(array).__name__}")
    return _as_images(Dataset(name=path.stem, train=_rows(array, path)))


def _read_npz(path: Path) -> Dataset:
    archive = _load_numpy(path)
    if isinstance(archive, np.ndarray):
        raise ValueError(f"load_file: {path} must be an npz archive, got a single array: call it .npy")
    with archive:
        arrays = {key: _member(archive, key, path) for key in archive.files}
    if len(arrays) == 1:
        arrays = {"train": next(iter(arrays.values()))}
    unknown = sorted(set(arrays) - set(_NPZ_NAMES))
    if unknown or "train" not in arrays:
        raise ValueError(
            f"load_file: {path} must hold one array, or train and any of {', '.join(_NPZ_NAMES[1:])}, "
            f"got {', '.join(arrays) or 'none'}"
        )
    parts: dict[str, Any] = {k: (_labels if k.endswith("labels") else _rows)(v, path, k) for k, v in arrays.items()}
    return _as_images(Dataset(name=path.stem, **parts))


def _as_images(dataset: Dataset) -> Dataset:
    """The data set with its shape of an image, where its rows are images by their shape; channels come first."""
    shape = dataset.event_shape
    if len(shape) == 2:
        return replace(dataset, image_shape=(1, *shape))
    if len(shape) == 3 and shape[0] in (1, 3):
        return replace(dataset, image_shape=shape)
    if len(shape) == 3 and shape[2] in (1, 3):
        test = None if dataset.test is None else dataset.test.movedim(-1, 1).contiguous()
        train = dataset.train.movedim(-1, 1).contiguous()
        return replace(dataset, train=train, test=test, image_shape=(shape[2], *shape[:2]))
    return dataset


def _load_numpy(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"load_file: {path} must be a readable {path.suffix} file, got: {_reason(error)}") from None


def _member(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        return archive[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"load_file: {path} must hold readable arrays, got for {key!r}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What is wrong; numpy takes what it does not know for a pickle, and advises to load it unsafely."""
    return "pickled objects, or no array of numpy; neither is read" if "pickle" in str(error) else str(error)


def _rows(array: np.ndarray, path: Path, part: str = "") -> Tensor:
    """Check an array and return it as (N, *event) float32."""
    where = f"{path}[{part}]" if part else str(path)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"load_file: {where} must hold real numbers, got an array of {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"load_file: {where} must hold at least one row, got shape {array.shape}")
    array = array[:, None] if array.ndim == 1 else array
    rows = torch.from_numpy(np.array(array, dtype=np.float32))
    if not bool(rows.isfinite().all()):
        place = [int(i) for i in (~rows.isfinite()).nonzero()[0]]
        value = "NaN" if bool(rows[tuple(place)].isnan()) else "infinity"
        column = str(place[1]) if len(place) == 2 else str(tuple(place[1:]))
        raise ValueError(f"load_file: {where} must hold finite numbers, got {value} at row {place[0]}, column {column}")
    return rows


def _labels(array: np.ndarray, path: Path, part: str) -> Tensor:
    """Check labels and return them as (N,) long."""
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"load_file: {path}[{part}] must be (N,) integers, got {array.shape} of {array.dtype}")
    return torch.from_numpy(array.astype(np.int64))
