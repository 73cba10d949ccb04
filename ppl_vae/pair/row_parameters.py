"""Parameters with one entry a row: mini-batches, whose rows change, would share them in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, combinations, islice
from typing import TYPE_CHECKING, Any, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.nn import mode_of
from ppl_vae.pair.axis import DataAxisError
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.reach import modules_of
from ppl_vae.pair.scope import LOCK, empty_store

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

__all__ = ["forgetting", "require_shared_parameters", "require_shared_parameters_of", "row_parameters"]

Shapes = dict[str, torch.Size]
Store = dict[str, Any]
Run = Callable[[Batch], None]
MOST_TRIALS = 32
"""Sets of parameters that are made longer, the smallest first, to see whether one row more then runs."""


def row_parameters(pair: Pair, batch_size: int) -> dict[str, tuple[int, ...]]:
    """The parameters of a pair with an entry for each row, with their present shapes; see :func:`by_row`."""
    if pair.template is None or not len(pair.template):
        return {}
    scope, runner = pair.scope, pair.runner

    @contextmanager
    def within(store: Store) -> Iterator[None]:
        own, scope.store = scope.store, store
        try:
            with scope(), scope.mode(training=False):
                yield
        finally:
            scope.store = own

    rows = pair.template.take(slice(0, batch_size))
    return by_row(
        lambda batch: _both(runner.model, runner.guide, batch), rows, pair.parameters.leaves, within, scope.store
    )


def by_row(
    run: Run, rows: Rows, leaves: Mapping[str, Tensor], within: Callable[[Store], Any], store: Store | None
) -> dict[str, tuple[int, ...]]:
    """The parameters that have an entry for each of some rows.

    Sizes alone tell nothing: 10 weights for 10 columns are no rows, however many rows a batch has. So the pair is run
    on these rows and on one more (the last one twice). Those that ``pyro.param`` makes, in an empty store, of another
    shape are such; and where one row more does not run, those of a fixed shape with which it does as soon as they
    have an entry more, too. Its own parameters are not touched.

    Args:
        run: guide and model on a batch.
        leaves: the parameters as they are, by name.
        within: the context of a run, with a parameter store in place.
        store: the present one; None is an empty one.
    """
    store = store or empty_store()
    one_more = torch.arange(len(rows) + 1, device=next(iter(rows.batch().args), torch.empty(0)).device)
    more = rows.take(one_more.clamp(max=len(rows) - 1))
    if store["params"]:
        fewer_shapes, more_shapes = (_initial_shapes(run, part, within) for part in (rows, more))
        found = {n: tuple(shape) for n, shape in fewer_shapes.items() if more_shapes.get(n, shape) != shape}
        if found:
            return found
    places = [(name, axis) for name, leaf in leaves.items() for axis, n in enumerate(leaf.shape) if n == len(rows)]

    def fits(part: Rows) -> bool:
        copy: Store = {key: dict(value) for key, value in store.items()}
        with within(copy), isolated_rng(fold(0, "row parameters"), one_more.device), torch.no_grad():
            return _try(run, part.batch())

    if not places or fits(more) or not fits(rows):
        return {}
    for chosen in islice(chain.from_iterable(combinations(places, k + 1) for k in range(len(places))), MOST_TRIALS):
        with _longer(leaves, chosen):
            is_it = fits(more)
        if is_it:
            return {name: tuple(leaves[name].shape) for name, _ in chosen}
    return {}


@contextmanager
def _longer(leaves: Mapping[str, Tensor], places: Iterable[tuple[str, int]]) -> Iterator[None]:
    """Parameters with their last entry twice along these axes."""
    before = {name: leaves[name].data for name, _ in places}
    try:
        for name, axis in places:
            data = leaves[name].data
            leaves[name].data = torch.cat([data, data.narrow(axis, data.shape[axis] - 1, 1)], axis)
        yield
    finally:
        for name, data in before.items():
            leaves[name].data = data


def _initial_shapes(run: Run, rows: Rows, within: Callable[[Store], Any]) -> Shapes:
    """The shapes that parameters get on these rows; where a run fails, those of what was made before."""
    batch = rows.batch()
    device = next(iter(batch.args), torch.empty(0)).device
    with within(empty_store()), isolated_rng(fold(0, "row parameters"), device), torch.no_grad():
        _try(run, batch)
        return {name: leaf.shape for name, leaf in pyro.get_param_store().named_parameters()}


def _both(model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batch: Batch) -> None:
    drawn = poutine.trace(guide).get_trace(batch)
    poutine.replay(model, trace=drawn)(batch)


def _try(run: Run, batch: Batch) -> bool:
    try:
        run(batch)
    except Exception as error:  # on so many rows it does not run: a plate of a fixed size, say
        if is_out_of_memory(error):
            raise
        return False
    return True


def require_shared_parameters(pair: Pair, batch_size: int | None) -> None:
    """Raise :class:`DataAxisError` for a pair on mini-batches whose parameters have an entry for each row.

    Args:
        pair: initialized.
        batch_size: rows of a batch; None: as many as the pair knows.
    """
    found = row_parameters(pair, batch_size or len(pair.template or ()))
    _refuse("Pair", found)


def require_shared_parameters_of(
    model: Any, guide: Any, args: tuple[Tensor, ...], leaves: Mapping[str, Tensor]
) -> None:
    """The same for a pair in Pyro's global store, with the rows of a mini-batch, after a first step on it."""
    store = pyro.get_param_store()

    @contextmanager
    def within(other: Store) -> Iterator[None]:
        modules = [*modules_of(model), *modules_of(guide)]
        with LOCK, store.scope(cast(Any, other)), mode_of(modules, training=False):
            yield

    def run(batch: Batch) -> None:
        _both(lambda b: model(*b.args), lambda b: guide(*b.args), batch)

    _refuse("CompiledSVI.run", by_row(run, Rows(args), leaves, within, cast(Any, dict(store.get_state()))))


def _refuse(who: str, found: Mapping[str, tuple[int, ...]]) -> None:
    if not found:
        return
    shown = ", ".join(f"{name!r} {shape}" for name, shape in found.items())
    raise DataAxisError(
        f"{who}: {shown} must have another shape for another number of rows, so each entry belongs to a row, and "
        "mini-batches, whose rows change, would share it; make steps on all rows at once, without batch_size, or "
        "gather: let the signature name index, or the data hold it, and take `pyro.param(name, torch.zeros(N))[index]` "
        "(guides.MeanField does so in a fit)"
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
