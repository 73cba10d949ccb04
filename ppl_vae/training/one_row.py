"""A batch of one row in a network that normalizes over the batch."""

from __future__ import annotations

from torch import nn

from ppl_vae.data.rows import Batch
from ppl_vae.pair import Pair
from ppl_vae.pair.explain import locals_along

__all__ = ["one_row"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def one_row(pair: Pair, batch: Batch, step: int, error: Exception) -> ValueError | None:
    """The error to raise where batch normalization has met a single row in training, or None."""
    if "more than 1 value per channel" not in str(error):
        return None
    sides = (("model", pair.model), ("guide", pair.guide))
    names = {
        part: f"{side}.{name}"
        for side, fn in sides
        for module in ([fn] if isinstance(fn, nn.Module) else [])
        for name, part in module.named_modules()
    }
    met = next((local["self"] for local in locals_along(error) if isinstance(local.get("self"), NORMS)), None)
    who = "BatchNorm" if met is None else f"{type(met).__name__} {names.get(met, '')!r}".removesuffix(" ''")
    size = "1 row" if batch.size == 1 else f"{batch.size} rows"
    return ValueError(
        f"step {step}: the batch has {size} (of {batch.num_data} in all), and {who} needs more than 1 value a channel "
        "in training; let no batch be so small: fit(last_batch='even') or 'drop', another batch_size, or "
        "drop_last=True of a DataLoader"
    )
