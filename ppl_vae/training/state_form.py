"""The form of a saved state, looked at before anything of it is used: a state may come from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.storage.form import (
    Misfit,
    anything,
    each,
    finite,
    flag,
    kind,
    maybe,
    one_of,
    record,
    require_form,
    table,
    text,
    whole,
)

__all__ = ["require_state"]

_tensor = kind("a tensor", lambda value: isinstance(value, Tensor))
_rows = kind("a tensor of rows", lambda value: isinstance(value, Tensor) and value.dim() > 0)
_matrix = kind("a table of float64", lambda v: isinstance(v, Tensor) and v.dim() == 2 and v.dtype == torch.float64)
_flags = kind("a table of bool", lambda v: isinstance(v, Tensor) and v.dim() == 2 and v.dtype == torch.bool)
_columns = record(names=each(text), whole=each(flag), values=_matrix, present=maybe(_flags), words=each(each(anything)))
_old_row = record(epoch=whole())


def _table(value: Any, where: str) -> None:
    """The history: a table with as many columns as names."""
    _columns(value, where)
    shape, names = value["values"].shape, value["names"]
    if len(names) != shape[1] or len(value["whole"]) != shape[1] or len(set(names)) != len(names):
        raise Misfit(f"{where}.names", f"the {shape[1]} different names of its columns", len(names))
    if value["present"] is not None and value["present"].shape != shape:
        raise Misfit(f"{where}.present", f"a table of shape {tuple(shape)}", str(tuple(value["present"].shape)))
    if shape[0] and "epoch" not in names:
        raise Misfit(f"{where}.names", "names with 'epoch'", str(names))
    for i, word in enumerate(value["words"]):
        if len(word) != 3 or not isinstance(word[0], str) or type(word[1]) is not int or not 0 <= word[1] < shape[0]:
            raise Misfit(f"{where}.words[{i}]", "a name, the number of a row, and a word", word)


def _history(value: Any, where: str) -> None:
    """In today's layout, or in the one before it (rows)."""
    if isinstance(value, dict) and "table" not in value:
        record({"rows": each(_old_row), "sizes": each(whole(1)), "pending": maybe(_matrix_of_reports)})(value, where)
    else:
        record({"sum": _tensor, "count": whole()}, table=_table)(value, where)


_matrix_of_reports = kind("a table of reports", lambda v: isinstance(v, Tensor) and v.dim() == 2)


def _template(value: Any, where: str) -> None:
    """A row or two of the data; empty for a pair without any."""
    if value == {}:
        return
    record(args=each(_rows), kwargs=table(_rows))(value, where)
    sizes = {len(tensor) for tensor in (*value["args"], *value["kwargs"].values())}
    if len(sizes) > 1:
        raise Misfit(where, "tensors with equally many rows", str(sorted(sizes)))


_shown = record(template=_template, history=_history)
FORMATS = (1, 2)
"""1 had the history as rows and reports; it is still read."""
_run = record(
    {
        "weights_apart": flag,
        "compiled": table(table(anything)),
        "optimizer": record(state=table(table(anything)), groups=each(table(anything))),
    },
    format=one_of(*FORMATS),
    fingerprint=table(anything),
    step=whole(),
    epoch=whole(),
    position=whole(),
    seconds=finite,
    tensors=table(_tensor),
    callbacks=each(anything),
    history=_history,
    template=_template,
)


def require_state(state: Any, path: str | Path, *, of_a_run: bool = False) -> dict[str, Any]:
    """Raise :class:`StorageError` with the file and the key, unless this is what a run, or a saved pair, has written.

    Args:
        of_a_run: is it to go on from?
    """
    is_run = of_a_run or (isinstance(state, dict) and "fingerprint" in state)
    require_form(state, _run if is_run else _shown, path)
    found: dict[str, Any] = state
    return found
