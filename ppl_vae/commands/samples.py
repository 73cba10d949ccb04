"""``ppl-vae sample``: new data of a run, as a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.pair.predictive import follows_the_rows
from ppl_vae.storage import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.commands.opening import Opened


def draw(opened: Opened, count: int, *, mean: bool = False, seed: int = 0) -> Tensor:
    """New data from the posterior predictive, (count, ...), in the units of the data it was fitted to."""
    known = opened.dataset().train if follows_the_rows(opened.fit.pair) else None
    rows: Any = opened.fit.sample(count, mean=mean, seed=seed, fitted_to=known)
    if isinstance(rows, dict):
        raise ValueError(f"sample: one observed site is required, the model has {', '.join(rows)}")
    return rows


def write_samples(
    path: Path, rows: Tensor, image_shape: tuple[int, ...] | None, *, names: Sequence[str] | None = None
) -> None:
    """Write (n, ...) numbers as ``.npy`` or ``.csv`` (headed by the names of columns), or images as ``.png``."""
    writers: dict[str, Callable[[], bytes]] = {
        ".npy": lambda: _npy(rows.numpy()),
        ".csv": lambda: _csv(rows.flatten(1).numpy(), names),
        ".png": lambda: _png(rows, image_shape),
    }
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(writers)}")
    atomic_write(path, writers[path.suffix.lower()]())


def _npy(array: Any) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _csv(table: Any, names: Sequence[str] | None) -> bytes:
    import pandas as pd

    text: str = pd.DataFrame(table, columns=names).to_csv(index=False, header=names is not None, float_format="%.9g")
    return text.encode()


def _png(rows: Tensor, image_shape: tuple[int, ...] | None) -> bytes:
    from ppl_vae.plots import images

    if image_shape is None:
        raise ValueError("sample: the data of this run are no images; write .npy or .csv")
    file = io.BytesIO()
    images(rows, shape=image_shape).figure.savefig(file, format="png")  # type: ignore[union-attr]
    return file.getvalue()
