"""The objective at several settings of the parameters, on the same rows and noise: their differences are sharp."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import fold, seed_generators
from ppl_vae.data.batches import Batches
from ppl_vae.data.rows import Batch
from ppl_vae.pair import Pair
from ppl_vae.training.trainer import put

__all__ = ["Gain", "gain", "measured"]

LEAST = 8
"""Runs of the pair for each setting, at least (or one epoch, where that has more batches)."""


@dataclass(frozen=True)
class Gain:
    """What one setting is ahead of another.

    Attributes:
        value, standard_error: nats per datum.
    """

    value: float
    standard_error: float

    def times(self, factor: float) -> Gain:
        """So many times as much."""
        return Gain(factor * self.value, factor * self.standard_error)


def gain(before: np.ndarray, after: np.ndarray) -> Gain:
    """By how much ``after`` is ahead, of objectives (R,) that were measured on the same noise, run by run."""
    difference = after - before
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
    return Gain(float(difference.mean()), float(error))


def measured(
    pair: Pair,
    measure: Callable[[Batch], Tensor],
    batches: Batches,
    live: Mapping[str, Tensor],
    settings: Sequence[Mapping[str, Tensor]],
    *,
    seed: int,
    tol: float,
    most: int,
) -> list[np.ndarray]:
    """The objective at each setting, in so many runs that differences from the last one are known to ``tol``.

    Args:
        measure: the report on a batch, its first number the objective, nats per datum.
        live: the tensors that a step changes, by name.
        settings: values of them; what a setting lacks stays as it is. All is given back.
        seed: of the noise, which is the same for all settings, and in every call.
        tol: a standard error, nats per datum.
        most: runs of each setting that are made for it, or 8, or one epoch, where these are more.

    Returns:
        For each setting the objective in each run, nats per datum, (R,); NaN where the pair cannot be run there.
    """
    here = {name: live[name].detach().clone() for setting in settings for name in setting}
    settings = [
        {name: value.detach().clone() for name, value in setting.items()} for setting in settings
    ]  # some are live
    found: list[list[float]] = [[] for _ in settings]
    try:
        for passed in range(max(LEAST, most)):
            noise = fold(seed, "common noise", passed)
            with pair.evaluating(noise):
                for i, batch in enumerate(batches.epoch(noise, 0)):
                    for setting, values in zip(settings, found, strict=True):
                        put(setting, {name: live[name] for name in setting})
                        seed_generators(fold(noise, i), pair.device)
                        values.append(_objective(measure, batch))
            if _is_enough(found, tol, most):
                break
    finally:
        put(here, {name: live[name] for name in here})
    return [np.array(values) for values in found]


def _objective(measure: Callable[[Batch], Tensor], batch: Batch) -> float:
    try:
        return float(measure(batch)[0])
    except (ValueError, ArithmeticError, torch.linalg.LinAlgError):
        return math.nan  # an argument check has met a number that is not finite


def _is_enough(found: Sequence[Sequence[float]], tol: float, most: int) -> bool:
    runs = len(found[0])
    if runs < LEAST:
        return False
    last = np.array(found[-1])
    errors = [gain(np.array(values), last).standard_error for values in found[:-1]]
    return runs >= most or all(not error > tol for error in errors)
