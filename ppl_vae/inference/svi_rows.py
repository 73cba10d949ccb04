"""The rows that many steps take, one after the other, the losses that they give back, and what they leave behind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.pair.reach import owned_module
from ppl_vae.pair.row_parameters import require_shared_parameters_of

if TYPE_CHECKING:
    from ppl_vae.inference.compiled_svi import CompiledSVI

CHUNK = 4096
"""Steps for which the order of the rows is drawn at once."""


def require_rows(columns: tuple[Any, ...], num_steps: int, batch_size: int | None) -> None:
    """Say what cannot be run.

    Raises:
        ValueError, TypeError: the rows do not match, or a number is out of range.
    """
    if not columns or not all(isinstance(column, Tensor) and column.dim() for column in columns):
        found = ", ".join(type(column).__name__ for column in columns) or "nothing"
        raise TypeError(f"CompiledSVI.run: tensors with rows along axis 0 are required, got {found}")
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"CompiledSVI.run: tensors of one length are required, got {[len(c) for c in columns]}")
    if not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"CompiledSVI.run: num_steps must be a whole number >= 0, got {num_steps!r}")
    if batch_size is not None and not 1 <= batch_size <= len(columns[0]):
        raise ValueError(f"CompiledSVI.run: batch_size must be from 1 to {len(columns[0])} rows, got {batch_size!r}")


def order(num_rows: int, batch_size: int, num_steps: int) -> Iterator[Tensor]:
    """Indices (batch_size,) for each step: permutations of all rows, one after the other."""
    left = torch.empty(0, dtype=torch.long)
    while num_steps > 0:
        steps = min(num_steps, CHUNK)
        parts, count = [left], len(left)
        while count < steps * batch_size:
            parts.append(torch.randperm(num_rows))
            count += num_rows
        indices = torch.cat(parts)
        left = indices[steps * batch_size :]
        yield from indices[: steps * batch_size].view(steps, batch_size).unbind(0)
        num_steps -= steps


def rows_at(index: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """The rows of each column at these places."""
    return tuple(column.index_select(0, index) for column in columns)


def require_shared(svi: CompiledSVI, rows: tuple[Tensor, ...], asked: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse parameters with an entry for each of these rows of a mini-batch.

    Args:
        asked: what was asked before, as this returns it: model, guide and the size of a batch. It is not asked twice.

    Raises:
        DataAxisError: there is such a parameter.
    """
    asks = (svi.model, svi.guide, len(rows[0]))
    if asked and asks[0] is asked[0] and asks[1] is asked[1] and asks[2] == asked[2]:
        return asked
    names = {id(leaf): name for name, leaf in private.stored(pyro.get_param_store()).items()}
    for role, fn in (("model", svi.model), ("guide", svi.guide)):
        module = owned_module(fn)
        names |= {id(p): f"{role}.{n}" for n, p in (module.named_parameters() if module is not None else ())}
    leaves = {names.get(id(leaf), f"parameter {i}"): leaf for i, leaf in enumerate(svi.leaves())}
    require_shared_parameters_of(svi.model, svi.guide, rows, leaves)
    return asks


def stacked(losses: list[Any]) -> Tensor:
    """(num_steps,), or (num_steps, K): floats of eager steps and tensors of captured ones."""
    rows = [
        [torch.as_tensor(v, dtype=torch.float64).cpu() for v in (loss if isinstance(loss, list | tuple) else [loss])]
        for loss in losses
    ]
    if not rows:
        return torch.empty(0, dtype=torch.float64)
    table = torch.stack([torch.stack(row) for row in rows])
    return table[:, 0] if table.shape[1] == 1 else table


def warn_of_lost(leaves: list[Tensor]) -> None:
    """Say which parameters are not finite, in the optimizer's space or (those of Pyro's store) in their own."""
    store = pyro.get_param_store()
    names = {id(leaf): name for name, leaf in private.stored(store).items()}
    live = {names.get(id(leaf), f"of shape {tuple(leaf.shape)}"): leaf for leaf in leaves}
    every = {**live, **dict(store.items())}
    lost = [name for name, leaf in every.items() if not bool(torch.isfinite(leaf.detach()).all())]
    if lost:
        warnings.warn(
            f"CompiledSVI.run: after the last step the parameters {', '.join(sorted(lost))} are not finite; a smaller "
            "learning rate often helps",
            stacklevel=3,
        )
