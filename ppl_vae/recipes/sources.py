"""Where the command line's data come from: a short text such as ``digits``, ``mnist:DIR`` or a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Dataset

HELD_OUT = 5  # of data without a split of their own, one row in five is held out
FEWEST = 20  # rows below which nothing is held out

SUFFIXES = (".csv", ".npy", ".npz")


def _digits() -> Dataset:
    from ppl_vae.data import load_digits

    return load_digits(binary=True)


def _grey_digits() -> Dataset:
    from ppl_vae.data import load_digits

    return load_digits()


def _iris() -> Dataset:
    from ppl_vae.data import load_iris

    return load_iris()


def _wine() -> Dataset:
    from ppl_vae.data import load_wine

    return load_wine(standardize=False)


#: the names that need no file
NAMED: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "grey-digits": _grey_digits,
    "iris": _iris,
    "wine": _wine,
}


def open_source(text: str, *, hold_out: bool = True, **reading: Any) -> Dataset:
    """The data set that ``text`` stands for, with test rows.

    Args:
        text: ``digits`` (zeros and ones), ``grey-digits`` (17 levels), ``iris``, ``wine``, ``mnist:DIR`` (the IDX
            files in DIR, as zeros and ones), a file in .csv, .npy or .npz, or a folder of pictures. Where the data
            bring no test rows, one row in five is held out, always the same ones; of fewer than 20 rows, none.
        hold_out: False leaves all rows of a file together, in their order.
        reading: how a file is read; see :func:`ppl_vae.data.load_file`.

    Raises:
        ValueError, FileNotFoundError: neither a name nor a file that can be read; the message has the nearest
            names.
    """
    reading = {name: value for name, value in reading.items() if value}
    if (text in NAMED or text.startswith("mnist:")) and set(reading) - {"class_names"}:
        raise ValueError(f"{text}: columns are chosen, and pictures made grey, in a file of your own")
    if text in NAMED:
        return _with_test_rows(NAMED[text]())
    if text.startswith("mnist:"):
        from ppl_vae.data import load_mnist

        return load_mnist(text.removeprefix("mnist:"), binary=True)
    if Path(text).suffix.lower() not in SUFFIXES and not Path(text).exists():
        near = get_close_matches(text, [*NAMED, "mnist:DIR"], n=2, cutoff=0.5) or [*NAMED, "mnist:DIR"]
        raise ValueError(
            f"unknown data {text!r}; did you mean {' or '.join(near)}? (or a file in .csv, .npy, .npz, or a folder of "
            "pictures)"
        )
    from ppl_vae.data import load_file

    dataset = load_file(text, **reading)
    return _with_test_rows(dataset) if hold_out else dataset


def _with_test_rows(dataset: Dataset) -> Dataset:
    """Hold out one row in five where there is no test part, by a fixed permutation that no option changes."""
    from ppl_vae._random import generator

    if dataset.test is not None or len(dataset.train) < FEWEST:
        return dataset
    import torch

    order = torch.randperm(len(dataset.train), generator=generator(0, "held-out"))
    held_out, rest = (
        order[: len(order) // HELD_OUT].sort().values,
        order[len(order) // HELD_OUT :].sort().values,
    )
    labels, index = dataset.train_labels, dataset.index_of("train")
    return replace(
        dataset,
        train=dataset.train[rest],
        test=dataset.train[held_out],
        train_labels=None if labels is None else labels[rest],
        test_labels=None if labels is None else labels[held_out],
        train_index=tuple(index[i] for i in rest.tolist()),
        test_index=tuple(index[i] for i in held_out.tolist()),
    )


@dataclass(frozen=True)
class Scale:
    """The column-wise map of a table to mean 0 and standard deviation 1 (of its training rows), as plain
    lists.

    Densities are then those of the standardized columns, and say so.
    """

    mean: list[float]
    sd: list[float]

    @classmethod
    def of(cls, dataset: Dataset) -> Scale | None:
        """The map for a table of real numbers; None for zeros and ones, and for images."""
        train = dataset.train.double()
        binary = bool(((train == 0) | (train == 1)).all())
        if binary or train.dim() != 2 or dataset.image_shape is not None:
            return None
        mean, sd = train.mean(0), train.std(0, correction=0)
        constant = sd <= 1e-6 * mean.abs()  # in float32 its deviation is rounding
        return cls(mean.tolist(), sd.masked_fill(constant, 1.0).tolist())

    def apply(self, dataset: Dataset) -> Dataset:
        """The same rows, standardized."""
        if len(self.mean) != dataset.train[0].numel():
            raise ValueError(
                f"the data must have {len(self.mean)} columns as in the run, got {tuple(dataset.train.shape)}"
            )
        test = None if dataset.test is None else self._forward(dataset.test)
        unit = "standard deviations of the column"
        return replace(dataset, train=self._forward(dataset.train), test=test, unit=unit)

    def _forward(self, rows: Tensor) -> Tensor:
        exact = rows.double()
        return ((exact - exact.new_tensor(self.mean)) / exact.new_tensor(self.sd)).to(rows.dtype)

    def undo(self, rows: Any) -> Any:
        """Standardized rows in the units of the data."""
        return rows * rows.new_tensor(self.sd) + rows.new_tensor(self.mean)
