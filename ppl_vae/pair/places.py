"""Whether a row means the same wherever it stands in a batch: mini-batches put it anywhere.

What belongs to a row by its place in the batch (one parameter for the first row, another for the second; a parameter
cut to the batch's length; a name with the number of the row) is shared by whatever rows come to stand there. Sizes do
not show it. So a batch is run in another order, at the same values: its densities must come in that order too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.pair.axis import DataAxisError, sample_sites
from ppl_vae.pair.checks import is_out_of_memory, shaken
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.scores import SiteScore

if TYPE_CHECKING:
    from ppl_vae.pair.pair import Pair

__all__ = ["require_places_alike"]

Scores = dict[str, Tensor]


def require_places_alike(pair: Pair, batch_size: int) -> None:
    """Raise :class:`DataAxisError` for a pair on mini-batches in which a row's density depends on its place.

    A batch may depend on its rows as a whole; a pair whose draws carry more than their values (flows, relaxed codes),
    and one that cannot be run on rows in another order, are not judged.

    Args:
        pair: initialized.
        batch_size: rows of a batch.
    """
    if pair.template is None or pair.layout.axis is None or pair.counts_volume:
        return
    rows = pair.template.take(slice(0, batch_size))
    if len(rows) < 2:
        return
    scope, leaves = pair.scope, pair.parameters.leaves
    noise = isolated_rng(fold(0, "places"), scope.device)
    apart = shaken(leaves.values(), scope.modules())  # where all rows start alike nothing is seen
    with scope(), noise, scope.mode(training=False), torch.no_grad(), apart:
        site = _misplaced(pair, rows)
    if site is None:
        return
    held = [name for name, leaf in leaves.items() if any(size >= len(rows) for size in leaf.shape)] or list(leaves)
    shown = ", ".join(f"{name!r} {tuple(leaves[name].shape)}" for name in held[:5])
    raise DataAxisError(
        f"Pair: {site} at a row depends on the row's place in the batch (perhaps by {shown}), and in mini-batches any "
        "row may stand there; fit without batch_size, or let the signature name index and gather what a row has: "
        "`pyro.param(name, torch.zeros(N))[index]` (guides.MeanField does so)"
    )


def _misplaced(pair: Pair, rows: Rows) -> str | None:
    """The first site whose densities do not follow their rows, or None."""
    order = torch.arange(len(rows)).roll(1)
    run = _run(pair, rows.batch(), None)
    values = None if run is None else _values(run)
    if run is None or values is None:
        return None
    turned = {name: _turned(pair, value, site, len(rows), order) for name, (value, site) in values.items()}
    same, other = (_run(pair, part, given) for part, given in _both(rows, values, order, turned))
    if same is None or other is None:
        return None
    still, shifted = _scores(same), _scores(other)
    for name, score in _scores(run).items():
        again, moved = still.get(name), shifted.get(name)
        if again is None or moved is None or not _equal(score, again):
            return None  # not a function of rows and values: noise of its own
        if not _equal(score[..., order] if score.shape[-1:] == (len(rows),) else score, moved):
            return name
    return None


def _both(
    rows: Rows, values: Mapping[str, tuple[Tensor, Any]], order: Tensor, turned: Mapping[str, Tensor]
) -> list[tuple[Batch, Mapping[str, Tensor]]]:
    device = next((t.device for t in (*rows.args, *rows.kwargs.values()) if isinstance(t, Tensor)), order.device)
    still = {name: value for name, (value, _) in values.items()}
    return [(rows.batch(), still), (rows.take(order.to(device)).batch(), turned)]


def _run(pair: Pair, batch: Batch, values: Mapping[str, Tensor] | None) -> Execution | None:
    try:
        return pair.runner.run(batch, values=values)
    except Exception as error:  # a person's own code, on rows in an order that it may not take
        if is_out_of_memory(error):
            raise
        return None


def _values(run: Execution) -> dict[str, tuple[Tensor, Any]] | None:
    """What the guide has drawn; None where a value carries more than its numbers."""
    found = {}
    for name, site in sample_sites(run.guide_trace):
        value = site["value"]
        if type(value) is not Tensor or vars(value):
            return None
        if not site["is_observed"]:
            found[name] = value, site
    return found


def _turned(pair: Pair, value: Tensor, site: Mapping[str, Any], size: int, order: Tensor) -> Tensor:
    """The value with its rows in another order, where it has them."""
    if pair.layout.axis is None or not pair.layout.is_local(site):
        return value
    place = value.dim() - len(site["fn"].event_shape) + pair.layout.axis.dim
    has_rows = 0 <= place < value.dim() and value.shape[place] == size
    return value.index_select(place, order.to(value.device)) if has_rows else value


def _scores(run: Execution) -> Scores:
    scores: dict[str, SiteScore] = {
        f"the guide's density of {name!r}": score for name, score in run.score_guide().items()
    }
    scores |= {f"the model's density of {name!r}": score for name, score in run.score_model().items()}
    return {what: score.log_prob.detach() for what, score in scores.items()}


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
