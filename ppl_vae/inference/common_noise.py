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
"""Runs of the pair for each setting, at least (or two epochs, where these have more batches)."""
TWICE = 2
"""Each batch meets so many noises, at least: what differs between them is the error, and not what differs by batch."""


@dataclass(frozen=True)
class Gain:
    """What one setting is ahead of another.

    Attributes:
        value, standard_error: nats per datum.
    """

    value: float
    standard_error: float

    @property
    def at_most(self) -> float:
        """What it may be, by one standard error; what is not known is no small gain."""
        return max(0.0, self.value) + self.standard_error

    def times(self, factor: float) -> Gain:
        """So many times as much."""
        return Gain(factor * self.value, factor * self.standard_error)


def gain(before: np.ndarray, after: np.ndarray) -> Gain:
    """By how much ``after`` is ahead, of objectives (P, B) that were measured on the same rows and noise.

    The error is that of the noise: all rows have been met, so what batches differ by is none.

    >>> gain(np.zeros((2, 2)), np.array([[1.0, 3.0], [1.0, 3.0]]))
    Gain(value=2.0, standard_error=0.0)
    """
    difference = after - before
    if len(difference) < TWICE:
        return Gain(float(difference.mean()), math.nan)
    return Gain(float(difference.mean()), math.sqrt(difference.var(0, ddof=1).mean() / difference.size))


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
        most: runs of each setting that are made for it, or 8, or two epochs, where these are more.

    Returns:
        For each setting the objective with each of P noises on each of B batches, nats per datum, (P, B); NaN where
        the pair cannot be run there.
    """
    here = {name: live[name].detach().clone() for setting in settings for name in setting}
    settings = [
        {name: value.detach().clone() for name, value in setting.items()} for setting in settings
    ]  # some are live
    found: list[list[list[float]]] = [[] for _ in settings]
    order = fold(seed, "common noise")
    try:
        for passed in range(max(LEAST, TWICE, most)):
            noise = fold(order, "noise", passed)
            for values in found:
                values.append([])
            with pair.evaluating(noise):
                for i, batch in enumerate(batches.epoch(order, 0)):
                    for setting, values in zip(settings, found, strict=True):
                        put(setting, {name: live[name] for name in setting})
                        seed_generators(fold(noise, i), pair.device)
                        values[-1].append(_objective(measure, batch))
            if _is_enough([np.array(values) for values in found], tol, most):
                break
    finally:
        put(here, {name: live[name] for name in here})
    return [np.array(values) for values in found]


def _objective(measure: Callable[[Batch], Tensor], batch: Batch) -> float:
    try:
        return float(measure(batch)[0])
    except (ValueError, ArithmeticError, torch.linalg.LinAlgError):
        return math.nan  # an argument check has met a number that is not finite


def _is_enough(found: Sequence[np.ndarray], tol: float, most: int) -> bool:
    passes, runs = len(found[0]), found[0].size
    if passes < TWICE or runs < LEAST:
        return False
    errors = [gain(values, found[-1]).standard_error for values in found[:-1]]
    return runs >= most or all(not error > tol for error in errors)
