"""Parameters of ``pyro.param`` with one entry a row: mini-batches, whose rows change, would share them in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.pair.axis import DataAxisError
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.scope import empty_store

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

__all__ = ["forgetting", "require_shared_parameters", "row_parameters"]

Shapes = dict[str, torch.Size]


def row_parameters(pair: Pair, batch_size: int) -> dict[str, tuple[int, ...]]:
    """The parameters that ``pyro.param`` makes of another shape if there is one row more, with their present shapes.

    Sizes alone tell nothing: 10 weights for 10 columns are no rows, however many rows a batch has. So the pair is run
    twice, each time from an empty parameter store, on ``batch_size`` rows and on one more (the last one twice), and
    the shapes that parameters get there are compared. Its own parameters are not touched.
    """
    if pair.template is None or not len(pair.template) or not (pair.scope.store or empty_store())["params"]:
        return {}
    rows = pair.template.take(slice(0, batch_size))
    one_more = torch.arange(len(rows) + 1, device=next(iter(rows.batch().args), torch.empty(0)).device)
    fewer, more = (_initial_shapes(pair, part) for part in (rows, rows.take(one_more.clamp(max=len(rows) - 1))))
    return {name: tuple(shape) for name, shape in fewer.items() if more.get(name, shape) != shape}


def _initial_shapes(pair: Pair, rows: Rows) -> Shapes:
    """The shapes that parameters get on these rows; where a run fails, those of what was made before."""
    scope, own, runner = pair.scope, pair.scope.store, pair.runner
    scope.store = empty_store()
    try:
        noise = isolated_rng(fold(0, "row parameters"), scope.device)
        with scope(), noise, torch.no_grad(), scope.mode(training=False):
            _try(lambda batch: _both(runner.model, runner.guide, batch), rows.batch())
            return {name: leaf.shape for name, leaf in pyro.get_param_store().named_parameters()}
    finally:
        scope.store = own


def _both(model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batch: Batch) -> None:
    drawn = poutine.trace(guide).get_trace(batch)
    poutine.replay(model, trace=drawn)(batch)


def _try(run: Callable[[Batch], None], batch: Batch) -> None:
    try:
        run(batch)
    except Exception as error:  # on so many rows it does not run: a plate of a fixed size, say
        if is_out_of_memory(error):
            raise


def require_shared_parameters(pair: Pair, batch_size: int | None) -> None:
    """Raise :class:`DataAxisError` for a pair on mini-batches whose parameters have an entry for each row.

    Args:
        pair: initialized.
        batch_size: rows of a batch; None: as many as the pair knows.
    """
    found = row_parameters(pair, batch_size or len(pair.template or ()))
    if not found:
        return
    shown = ", ".join(f"{name!r} {shape}" for name, shape in found.items())
    raise DataAxisError(
        f"Pair: pyro.param makes {shown} of another shape for another number of rows, so each entry belongs to a row, "
        "and mini-batches, whose rows change, would share it; fit without batch_size, or let the signature name index "
        "and gather: `pyro.param(name, torch.zeros(N))[index]` (guides.MeanField does so)"
    )


@contextmanager
def forgetting(pair: Pair, fresh: bool) -> Iterator[None]:
    """Where a pair is refused that has been run for the first time here, let it be as if it had not been run."""
    try:
        yield
    except ValueError:
        if fresh:
            pair._runner, pair.template, pair.scope.store = None, None, empty_store()
        raise


def in_rows(leaves: dict[str, Tensor], num_rows: int) -> str:
    """Which parameters have an axis of this size, in words; empty if none has."""
    named = [f"{name!r} {tuple(leaf.shape)}" for name, leaf in leaves.items() if num_rows in leaf.shape]
    return f"; perhaps {', '.join(named)} holds an entry for each row" if named else ""
