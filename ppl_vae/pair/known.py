"""What a pair must be given: rows as it knows them, parts that can be copied, a subsample that is its own."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from torch import nn

from ppl_vae.pair.axis import DataAxisError
from ppl_vae.pair.reach import modules_of
from ppl_vae.pair.row_parameters import in_rows

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair.pair import Pair


def require_known_rows(pair: Pair, rows: Source, *, of_guide: bool = True) -> None:
    """Raise ValueError for rows that the pair cannot be of; those that the model alone looks at may be any number.

    Tables and images keep their last axis; a length before it (of a sequence, say) may change. Numbers and a column of
    numbers are not the same: against a plate of rows the one would be paired with every other.
    """
    if of_guide and rows.index is None and len(rows) != pair.num_rows and pair.takes("index"):
        raise ValueError(
            f"{type(pair.guide).__name__}: a free posterior exists only for the {pair.num_rows} rows that it was "
            f"fitted to (its signature names index), got {len(rows)} other rows"
        )
    known = pair.template.columns if pair.template is not None else ()
    for was, now in zip(known, rows.columns if known else (), strict=False):
        if was.name == now.name and {was.shape, now.shape} == {(), (1,)}:
            wanted, got = (
                ("(N,)", "a column (N, 1); give x[:, 0]") if was.shape == () else ("(N, 1)", "(N,); give x[:, None]")
            )
            where = f"argument {now.name}" if isinstance(now.name, int) else repr(now.name)
            raise ValueError(f"Pair: data of shape {wanted} as in the fit are required for {where}, got {got}")
        unnamed = isinstance(was.name, int) and isinstance(now.name, int)
        same_rank = len(was.shape) == len(now.shape) >= 1
        if unnamed and same_rank and was.shape[-1] != now.shape[-1] and now.dtype.is_floating_point:
            raise ValueError(
                f"Pair: data of shape (N, ..., {was.shape[-1]}) as in the fit are required, got "
                f"{(len(rows), *now.shape)}"
            )


def require_own_subsample(pair: Pair, num_rows: int, batch_size: int, error: Exception) -> None:
    """Raise :class:`DataAxisError` for a pair that runs on all rows alone, unless it draws its subsample itself."""
    if pair.layout.axis is not None and pair.layout.axis.subsampled:
        return
    first_line = str(error).partition("\n")[0]
    perhaps = in_rows(pair.parameters.leaves, num_rows)
    raise DataAxisError(
        f"Pair: it runs on all {num_rows} rows, but not on a mini-batch of {batch_size} ({first_line}){perhaps}; if "
        f"the plate {pair.data_plate!r} has a fixed size, make it `pyro.plate({pair.data_plate!r}, len(x))` or give "
        "it a subsample_size, or fit without batch_size"
    ) from error


def require_own_parts(pair: Pair) -> None:
    """Raise TypeError for a pair whose copy would share its networks: those that functions name cannot be copied."""
    for role, fn in (("model", pair.model), ("guide", pair.guide)):
        shared = [type(module).__name__ for module in modules_of(fn)] if _is_function(fn) else []
        if shared:
            raise TypeError(
                f"Pair: a copy would share what the {role} {fn.__qualname__!r} names ({', '.join(shared)}), since a "
                "function is not copied; hold the networks in a module whose methods are model and guide"
            )


def _is_function(fn: Any) -> bool:
    return isinstance(fn, types.FunctionType) and not isinstance(fn, nn.Module)
