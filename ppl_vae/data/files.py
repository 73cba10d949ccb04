"""A person's own data: one csv, npy or npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd

_NPZ_NAMES = ("train", "test", "train_labels", "test_labels")


def load_file(path: str | Path) -> Dataset:
    """Load rows of numbers from a ``.csv``, ``.npy`` or ``.npz`` file.

    - csv: one datum a line, with or without a line of column names (a first line that is not all numbers is
      one);
    - npy: one array, axis 0 is the datum; a plain vector (N,) becomes (N, 1);
    - npz: one array under any name, or ``train`` and, where there are, ``test``, ``train_labels``,
      ``test_labels``.

    Nothing in the file is executed: arrays of Python objects are refused.

    Args:
        path: the file; its suffix says the format.

    Returns:
        A :class:`Dataset` named after the file, float32, all rows in ``train`` unless an npz file says
        otherwise.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown suffix, an unreadable or empty file, something that is no number, or a number
            that is not finite (with its row, counted from 0 after the header, and its column).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_file: {path} must be a file, and there is none")
    readers: dict[str, Callable[[Path], Dataset]] = {".csv": _read_csv, ".npy": _read_npy, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"load_file: the suffix must be one of {', '.join(readers)}, got {path.name}")
    return readers[path.suffix.lower()](path)


def _read_csv(path: Path) -> Dataset:
    import pandas as pd

    try:
        cells = pd.read_csv(path, header=None, dtype=str, skipinitialspace=True)
    except pd.errors.EmptyDataError:
        raise ValueError(f"load_file: {path} must hold at least one row, got an empty file") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"load_file: {path} must be a readable csv file, got: {error}") from None
    # A first line with a word in it is the header; one with an empty cell is a datum with a hole.
    names = [str(cell).strip() for cell in cells.iloc[0]] if _words(cells.iloc[:1]).any() else None
    body = cells if names is None else cells.iloc[1:]
    if (words := _words(body)).any():
        row, column = (int(i) for i in np.argwhere(words)[0])
        raise ValueError(
            f"load_file: {path} must hold numbers, got {body.iat[row, column]!r} at row {row}, "
            f"column {_column(column, names)}"
        )
    numbers = _numeric(body)
    rows = _rows(numbers.to_numpy(np.float64), path, names)
    return Dataset(name=path.stem, train=rows, feature_names=None if names is None else tuple(names))


def _numeric(cells: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return cells.apply(pd.to_numeric, errors="coerce")


def _words(cells: pd.DataFrame) -> np.ndarray:
    """Mark the cells that hold something which is no number; empty cells and NaN are none of these."""
    return (_numeric(cells).isna() & cells.notna()).to_numpy()


def _read_npy(path: Path) -> Dataset:
    array = _load_numpy(path)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"load_file: {path} must hold one array, got {type(array).__name__}")
    return Dataset(name=path.stem, train=_rows(array, path, None))


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
    parts: dict[str, Any] = {
        k: (_labels if k.endswith("labels") else _rows)(v, path, None, k) for k, v in arrays.items()
    }
    return Dataset(name=path.stem, **parts)


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


def _rows(array: np.ndarray, path: Path, names: list[str] | None, part: str = "") -> Tensor:
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
        column = _column(place[1], names) if len(place) == 2 else str(tuple(place[1:]))
        raise ValueError(f"load_file: {where} must hold finite numbers, got {value} at row {place[0]}, column {column}")
    return rows


def _labels(array: np.ndarray, path: Path, names: list[str] | None, part: str) -> Tensor:
    """Check labels and return them as (N,) long."""
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"load_file: {path}[{part}] must be (N,) integers, got {array.shape} of {array.dtype}")
    return torch.from_numpy(array.astype(np.int64))


def _column(number: int, names: list[str] | None) -> str:
    return str(number) if names is None else repr(names[number])
