"""What is given as data and is none: who, what was required, what came, and the way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from numbers import Number
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ppl_vae.data.dataset import Dataset

__all__ = ["require_rows"]


def require_rows(value: Any, name: str) -> None:
    """Say of a thing that holds no rows what to give instead.

    Raises:
        ValueError: it is a path, an iterator, an iterable without rows by number, sparse, complex, a function, ...
    """
    if (way_out := _way_out(value)) is not None:
        raise ValueError(f"{name}: numbers are required, got {_named(value)}; {way_out}")


def _way_out(value: Any) -> str | None:
    for applies, way_out in _FORMS:
        if applies(value):
            return way_out
    return None


def _named(value: Any) -> str:
    if isinstance(value, str | bytes | PathLike):
        return repr(value)
    if isinstance(value, Tensor):
        layout = "" if value.layout is torch.strided else f" in the layout {str(value.layout).removeprefix('torch.')}"
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}{layout}"
    if _is_masked(value):
        return f"a masked array of {value.dtype}" if isinstance(value, np.ndarray) else "a list of masked arrays"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    name = getattr(value, "__qualname__", None)
    return f"{type(value).__name__} {name}" if name is not None else type(value).__name__


def _is_an_iterable_without_numbers(value: Any) -> bool:
    return isinstance(value, IterableDataset) or (
        hasattr(value, "__iter__") and not hasattr(value, "__getitem__") and not hasattr(value, "__array__")
    )


def _is_sparse(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.layout is not torch.strided
    return hasattr(value, "toarray") and hasattr(value, "nnz")


def _is_a_list_of(kind: type) -> Any:
    return lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _is_ragged(value: Any) -> bool:
    parts = value if isinstance(value, list) and value and all(map(_has_shape, value)) else []
    return len({tuple(part.shape) for part in parts}) > 1


def _has_shape(part: Any) -> bool:
    return hasattr(part, "shape")


def _is_masked(value: Any) -> bool:
    """Is an entry masked out? numpy drops the mask where it makes a plain array, and the fill value is data then."""
    if isinstance(value, list):
        return any(map(_is_masked, value))
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any())


def _is_complex(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_complex()
    return isinstance(value, np.ndarray) and value.dtype.kind == "c"


ONCE = "it gives its rows once or in one order, and a fit goes over them many times in an order of its own: "
_FORMS: list[tuple[Any, str]] = [
    (
        lambda value: isinstance(value, str | bytes | PathLike),
        "a file is read first: ppl_vae.data.load_file(path).train, pandas.read_csv(path), or "
        "numpy.load(path, mmap_mode='r') to read it a batch at a time",
    ),
    (lambda value: isinstance(value, Dataset), "give its rows: data.train"),
    (lambda value: isinstance(value, type), "make an instance of it"),
    (lambda value: isinstance(value, torch.nn.Module), "the data come after the model and the guide"),
    (callable, "call it, and give what it returns"),
    (
        lambda value: isinstance(value, Iterator),
        ONCE + "collect them, as in torch.stack(list(data)), or give a torch Dataset with a length and rows by number",
    ),
    (
        lambda value: isinstance(value, set | frozenset),
        "a set has no order: give a list or an array",
    ),
    (
        lambda value: not isinstance(value, Mapping) and _is_an_iterable_without_numbers(value),
        ONCE + "give it __getitem__ (a map-style Dataset), or collect the rows, as in torch.stack(list(data))",
    ),
    (_is_sparse, "give it dense: data.to_dense() of a tensor, data.toarray() of a scipy matrix"),
    (
        _is_a_list_of(dict),
        "give a dictionary of columns instead of a list of rows: {key: [row[key] for row in data] for key in data[0]}",
    ),
    (
        _is_masked,
        'of which the mask would be lost: give it apart, {"x": data.filled(0), "mask": ~data.mask}, to a model that '
        "takes one",
    ),
    (_is_ragged, "a list is one array: give a tuple (x, y) for the arguments x and y of the model"),
    (_is_complex, "no distribution here is complex: give real and imaginary parts, as torch.view_as_real(data) does"),
    (lambda value: value is None, "leave it out where the pair takes none"),
    (
        lambda value: not isinstance(value, Sized | Tensor | Number) and not hasattr(value, "__array__"),
        "give the numbers that it holds",
    ),
]
