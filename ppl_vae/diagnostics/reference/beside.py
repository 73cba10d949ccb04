"""Means, sds and quantiles of two kinds of draws beside each other, in units of the reference's sd: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ppl_vae import _arviz
from ppl_vae.diagnostics.reference.distance import chance_of, wasserstein
from ppl_vae.evidence.self_normalized import mean_of, quantile_of, sd_of

__all__ = ["QUANTILES", "TOLERANCE", "Beside", "ChainMoments", "Moments"]

QUANTILES = (0.05, 0.5, 0.95)
TOLERANCE = 0.1
"""What matters: a mean that is off by more posterior sds than this, an sd by a greater share, a distance of more."""
ERRORS = 3.0
"""A mean or an sd is off where it is beyond the tolerance by more than so many standard errors."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of D numbers; each with the Monte Carlo error that it has, nan where that is not known.

    Attributes:
        mean, mean_error, sd, sd_error: (D,).
        quantiles, quantile_errors: (3, D), at 5, 50 and 95 %.
        ess: (D,), how many independent draws they are worth.
    """

    mean: Tensor
    mean_error: Tensor
    sd: Tensor
    sd_error: Tensor
    quantiles: Tensor
    quantile_errors: Tensor
    ess: Tensor

    @classmethod
    def of(cls, values: Tensor, weights: Tensor | None = None) -> Moments:
        """Of independent draws (S, D), with weights (S, D) that sum to 1 over the draws, or equal ones."""
        values = values.double()
        weights = torch.full_like(values, 1 / len(values)) if weights is None else weights.double()
        mean, sd = mean_of(values, weights), sd_of(values, weights)
        at = [quantile_of(values, weights, probability) for probability in QUANTILES]
        return cls(
            mean.value,
            mean.standard_error,
            sd.value,
            sd.standard_error,
            torch.stack([one.value for one in at]),
            torch.stack([one.standard_error for one in at]),
            1 / weights.square().sum(0),
        )


@dataclass(frozen=True, eq=False)
class ChainMoments:
    """What the draws of chains, which hang together, say of D numbers, and of themselves.

    Attributes:
        moments: with errors that know of it.
        rhat, ess_bulk, ess_tail: (D,).
    """

    moments: Moments
    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> ChainMoments:
        """Of draws (chains, draws, D)."""
        every = draws.double().flatten(0, 1)
        found = {
            name: torch.as_tensor(value)
            for name, value in _arviz.chain_statistics(draws.double().numpy(), QUANTILES).items()
        }
        moments = Moments(
            every.mean(0),
            found["mcse_mean"],
            every.std(0),
            found["mcse_sd"],
            every.quantile(torch.tensor(QUANTILES, dtype=torch.float64), 0),
            found["mcse_quantile"],
            found["ess_bulk"],
        )
        return cls(moments, found["rhat"], found["ess_bulk"], found["ess_tail"])


@dataclass(frozen=True, eq=False)
class Beside:
    """Draws beside those of a reference; all in sds of the reference, (D,). A number that is constant has none: nan.

    Attributes:
        moments: of the draws.
        reference: of the reference.
        distance: the 1-Wasserstein distance between the two sets of draws.
        chance: what two sets of draws of one posterior, worth as many, stay below in 99 % of all cases.
    """

    moments: Moments
    reference: Moments
    distance: Tensor
    chance: Tensor

    @classmethod
    def of(cls, values: Tensor, weights: Tensor | None, reference: Moments, draws: Tensor, *, seed: int) -> Beside:
        """Of independent draws (S, D) with weights (S, D), or equal ones, beside draws of the reference, (T, D)."""
        moments, scale = Moments.of(values, weights), _scale(reference)
        effective = 1 / (1 / moments.ess + 1 / reference.ess)
        distance = wasserstein(draws.double(), values.double(), None if weights is None else weights.double())
        return cls(moments, reference, distance / scale, chance_of(draws, effective, seed=seed) / scale)

    @cached_property
    def shift(self) -> Tensor:
        """Mean less the reference's."""
        return (self.moments.mean - self.reference.mean) / _scale(self.reference)

    @cached_property
    def shift_error(self) -> Tensor:
        """Its Monte Carlo error."""
        return _joint(self.moments.mean_error, self.reference.mean_error) / _scale(self.reference)

    @cached_property
    def sd_ratio(self) -> Tensor:
        """Standard deviation over the reference's."""
        return self.moments.sd / _scale(self.reference)

    @cached_property
    def sd_ratio_error(self) -> Tensor:
        """Its Monte Carlo error."""
        own = self.moments.sd_error / _scale(self.reference)
        return _joint(own, self.sd_ratio * self.reference.sd_error / _scale(self.reference))

    @cached_property
    def quantile_shift(self) -> Tensor:
        """Quantiles less the reference's, (3, D)."""
        return (self.moments.quantiles - self.reference.quantiles) / _scale(self.reference)

    @cached_property
    def quantile_shift_error(self) -> Tensor:
        """Their Monte Carlo errors, (3, D)."""
        return _joint(self.moments.quantile_errors, self.reference.quantile_errors) / _scale(self.reference)

    @cached_property
    def mean_off(self) -> Tensor:
        """Is the mean surely off by more than what matters, (D,) bool?"""
        return self.shift.abs() > TOLERANCE + ERRORS * self.shift_error.nan_to_num(0.0)

    @cached_property
    def sd_off(self) -> Tensor:
        """Is the sd, likewise?"""
        return (self.sd_ratio - 1).abs() > TOLERANCE + ERRORS * self.sd_ratio_error.nan_to_num(0.0)

    @cached_property
    def off(self) -> Tensor:
        """Is the mean, the sd, or the distance, likewise?"""
        return self.mean_off | self.sd_off | (self.distance > TOLERANCE + self.chance)

    def reading(self, place: int) -> str:
        """What is off with a number, in words; empty where nothing is."""
        words = []
        shift = float(self.shift[place])
        if bool(self.mean_off[place]):
            words.append(f"mean {abs(shift):.2f} sds too {'high' if shift > 0 else 'low'}")
        if bool(self.sd_off[place]):
            words.append(f"sd {float(self.sd_ratio[place]):.2f} of NUTS's")
        if not words and bool(self.off[place]):
            words.append(f"{float(self.distance[place]):.2f} sds away")
        return ", ".join(words)

    def farthest(self) -> Sequence[int]:
        """The numbers, those farthest away first."""
        order: list[int] = self.distance.nan_to_num(-1.0).argsort(descending=True, stable=True).tolist()
        return order


def _scale(reference: Moments) -> Tensor:
    return torch.where(reference.sd > 0, reference.sd, torch.nan)


def _joint(first: Tensor, second: Tensor) -> Tensor:
    return (first.square() + second.square()).sqrt()
