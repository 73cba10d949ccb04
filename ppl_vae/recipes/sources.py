"""Where the command line's data come from: a short text such as ``digits``, ``mnist:DIR`` or a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    labels, index, text = dataset.train_labels, dataset.index_of("train"), dataset.train_label_text
    return replace(
        dataset,
        train=dataset.train[rest],
        test=dataset.train[held_out],
        train_labels=None if labels is None else labels[rest],
        test_labels=None if labels is None else labels[held_out],
        train_label_text=None if text is None else tuple(text[i] for i in rest.tolist()),
        test_label_text=None if text is None else tuple(text[i] for i in held_out.tolist()),
        train_index=tuple(index[i] for i in rest.tolist()),
        test_index=tuple(index[i] for i in held_out.tolist()),
    )
