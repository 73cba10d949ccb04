"""What an estimate of log p(x) is: a value, its error bar, and the signs of how far to believe them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ppl_vae.evidence.fewer import Shortfall, shortfall_of
from ppl_vae.evidence.pooling import KHAT_LIMIT, Pool, khat_limit

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evidence", "MeanEvidence"]

Bound = Literal["lower", "upper", "exact", "estimate"]

LEAST_ESS = 2.0
"""Fewer draws than this carry no error bar: a single weight makes the estimate."""


def error_in_words(standard_error: float, digits: str) -> str:
    """A standard error in so many digits, or that it is not known.

    >>> error_in_words(0.01234, ".3f"), error_in_words(math.nan, ".3f")
    ('0.012', 'unknown')
    """
    return "unknown" if math.isnan(standard_error) else format(standard_error, digits)


@dataclass(frozen=True)
class MeanEvidence:
    """The mean of log p(x) over the data, in nats per datum, with its two errors kept apart.

    Attributes:
        value: the mean over the data.
        standard_error: its Monte Carlo error: it falls with the number of draws. It has no part from the
            choice of data. nan (not known) as soon as one datum has no error bar.
        sampling_error: sd(values) / sqrt(N): how much the mean would move with other data of the same kind;
            nan for one datum. Falls with N only.
        num_unknown, num_data: how many of how many data have no error bar.
        known_error: what the others make of it, which the whole is above.
        shortfall: what the value is estimated to lie below the mean of log p(x): the bias of a lower bound, found from
            the same draws, fewer at a time (:mod:`ppl_vae.evidence.fewer`). 0 where the evidence is exact; nan (not
            known) for fewer than 10 rows, or for few draws.
        shortfall_error: of the shortfall; half of it at least.
        halves_error: the Monte Carlo error as halves of the draws tell it: known for all rows, as soon as these are 10.

    >>> MeanEvidence(-17.4321, 0.0123, 0.31)
    -17.432 nats (Monte Carlo error 0.012, sampling error 0.31)
    >>> MeanEvidence(-17.4321, 0.0123, 0.31, shortfall=0.0041, shortfall_error=0.002)
    -17.432 nats (Monte Carlo error 0.012, sampling error 0.31; below log p(x) by about 0.0041 ± 0.002)
    >>> MeanEvidence(-17.4321, math.nan, 0.31, num_unknown=3, num_data=297, known_error=0.0123)
    -17.432 nats (Monte Carlo error > 0.012: 3 of 297 rows without an error bar; sampling error 0.31)
    """

    value: float
    standard_error: float
    sampling_error: float
    num_unknown: int = 0
    num_data: int = 1
    known_error: float = math.nan
    shortfall: float = math.nan
    shortfall_error: float = math.nan
    halves_error: float = math.nan

    def __float__(self) -> float:
        return self.value

    def error_in_words(self, digits: str) -> str:
        """The Monte Carlo error in so many digits; "> 0.012" where it is known of some data alone, or "unknown"."""
        if math.isnan(self.standard_error) and self.num_unknown < self.num_data and self.known_error > 0:
            return f"> {self.known_error:{digits}}"
        return error_in_words(self.standard_error, digits)

    def __repr__(self) -> str:
        errors = f"Monte Carlo error {self.error_in_words('.2g')}"
        counted = self.num_unknown > 0 and self.num_data > 1
        if counted:
            errors += f": {self.num_unknown} of {self.num_data} rows without an error bar"
        if not math.isnan(self.sampling_error):
            errors += f"{';' if counted else ','} sampling error {self.sampling_error:.2g}"
        if self.shortfall > 0:
            errors += f"; below log p(x) by about {self.shortfall:.2g} ± {self.shortfall_error:.1g}"
        return f"{self.value:.3f} nats ({errors})"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the mean of log p(x) over these data is, in nats: the shortfall added, both errors taken together.

        It covers as long as weights are not far too heavy: see the k-hats of the rows, and ``benchmarks/coverage.py``.

        Args:
            level: how often it is to hold it, between 0 and 1.

        Returns:
            lower and upper end; nan where no Monte Carlo error is known. Where that of a row is not, the one by halves
            stands for that of the mean. An unknown shortfall counts as 0.

        >>> low, high = MeanEvidence(-17.0, 0.01, 0.3, shortfall=0.02, shortfall_error=0.0).interval()
        >>> round(low, 4), round(high, 4)
        (-16.9996, -16.9604)
        """
        if not 0 < level < 1:
            raise ValueError(f"interval: level must be between 0 and 1, got {level!r}")
        known = not math.isnan(self.shortfall)
        middle = self.value + (self.shortfall if known else 0.0)
        monte_carlo = self.halves_error if math.isnan(self.standard_error) else self.standard_error
        error = math.hypot(monte_carlo, self.shortfall_error if known else 0.0)
        half = NormalDist().inv_cdf((1 + level) / 2) * error
        return middle - half, middle + half


@dataclass(frozen=True, eq=False)
class Evidence:
    """An estimate of log p(x), per datum, in nats.

    Attributes:
        value: the estimate, shape (N,) float64, or () when latents are shared by all data.
        standard_error: its Monte Carlo standard error, same shape, nats; nan where it is not known: for one draw, and
            where so few draws carry the sum (ESS below about 4) that the delta method says nothing.
        ess: the effective number of draws, (sum w)^2 / sum w^2, from 1 to K, same shape.
        khat: the shape of the upper tail of the weights, same shape. Above 0.7 **neither value nor
            standard_error is to be believed**: draws that were never made carry the sum, the value lies too
            low and the error bar too short.
        bound: the value lies "lower" or "upper" than log p(x) in expectation, or is "exact"; "estimate" promises
            neither.
        estimator: what made it, in words.
        fewer: the value by halves, quarters and eighths of the draws, averaged over these parts, (3, N) or (3,); None
            where there are too few draws. See :mod:`ppl_vae.evidence.fewer`.
        needs_khat: is the estimate to be judged by its k-hat? Not where weights have been collected on the way of a
            chain, and their error is told by their spread.
        num_draws: K of a datum, where k-hat is of importance weights; else None.
        is_pooled: have the rows helped each other's standard errors already (:meth:`pooled`)?

    >>> zeros = torch.zeros(3, dtype=torch.float64)
    >>> Evidence(zeros - 2, zeros, zeros + 10, zeros, "lower", "ImportanceWeighted(10)")
    Evidence(ImportanceWeighted(10), 3 rows, mean -2.000 nats (Monte Carlo error 0, sampling error 0), lower
    bound, \
k-hat below 0.7 for 100 %)
    """

    value: Tensor
    standard_error: Tensor
    ess: Tensor
    khat: Tensor
    bound: Bound
    estimator: str
    fewer: Tensor | None = None
    needs_khat: bool = True
    num_draws: int | None = None
    is_pooled: bool = False

    def mean(self) -> MeanEvidence:
        """Average over the data: errors of different data are independent, SE = sqrt(sum_n SE_n^2) / N.

        Where one of them is not known the error of the mean is not known either; the mean says of how many rows.
        Evidence of shape () is that of all the data at once; its mean is itself.
        """
        count = max(1, self.value.numel())
        spread = float(self.value.std()) / math.sqrt(count) if count > 1 else math.nan
        known = float(self.standard_error.square().nansum().sqrt()) / count
        unknown = int(self.standard_error.isnan().sum())
        error = math.nan if unknown else known
        below = Shortfall(0.0, 0.0, 0.0) if self.bound == "exact" else shortfall_of(self.value, self.fewer)
        counts: dict[str, Any] = {"num_unknown": unknown, "num_data": self.value.numel()}
        errors: dict[str, Any] = {
            "known_error": known,
            "shortfall": below.value,
            "shortfall_error": below.error,
            "halves_error": below.spread,
        }
        return MeanEvidence(float(self.value.mean()), error, spread, **counts, **errors)

    @property
    def reliable(self) -> Tensor:
        """May the estimate be taken for log p(x)? Bool, same shape as the value.

        It may where it is exact; else where the standard error is known, the effective number of draws is at least 2,
        and, if it is to be judged by that, :attr:`pooled_khat` is below :func:`khat_limit` for K draws. False where one
        of these could not be found.
        """
        if self.bound == "exact":
            return torch.ones_like(self.khat, dtype=torch.bool)
        known = self.standard_error.isfinite() & (self.ess >= LEAST_ESS)
        if not self.needs_khat:
            return known
        return known & (self.pooled_khat < self.khat_limit)

    @property
    def khat_limit(self) -> float:
        """What k-hat must be below, of so many draws; 0.7 where their number is not known."""
        return khat_limit(self.num_draws) if self.num_draws else KHAT_LIMIT

    @cached_property
    def _pool(self) -> Pool | None:
        return Pool.of(self.khat, self.num_draws)

    @property
    def pooled_khat(self) -> Tensor:
        """k-hat as far as it is no noise, by what the k-hats of all rows say of each; see ``evidence.pooling``.

        k-hat itself is from the draws that value and error are from, so that of many noisy ones those below a limit are
        the rows that have failed unseen. Of fewer than 10 rows it is k-hat itself.
        """
        return self.khat if self._pool is None else self._pool.khat

    def pooled(self) -> Evidence:
        """The same with standard errors that rows like it help to find, where tails are heavy."""
        if self._pool is None or self.bound == "exact" or self.is_pooled:
            return self
        return replace(self, standard_error=self._pool.error(self.standard_error), is_pooled=True)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a datum: value, standard_error, ess, khat."""
        import pandas as pd

        columns = {name: getattr(self, name).reshape(-1).numpy() for name in _COLUMNS}
        return pd.DataFrame(columns).rename_axis("datum")

    def __repr__(self) -> str:
        count = len(self.value) if self.value.dim() else None
        rows = "" if count is None else "1 row, " if count == 1 else f"{count} rows, mean "
        parts = [self.estimator, rows + repr(self.mean())]
        parts.append(self.bound if self.bound in ("exact", "estimate") else f"{self.bound} bound")
        parts.append(_khat_in_words(self.khat))
        return f"Evidence({', '.join(part for part in parts if part)})"


_COLUMNS = ("value", "standard_error", "ess", "khat")


def _khat_in_words(khat: Tensor) -> str:
    if bool(torch.isnan(khat).all()):
        return ""
    if khat.numel() == 1:
        return f"k-hat {float(khat):.2f}"
    return f"k-hat below {KHAT_LIMIT} for {percent(khat < KHAT_LIMIT)}"


def percent(flags: Tensor) -> str:
    """The share of True, which is called 0 % or 100 % only when it is none or all.

    >>> percent(torch.arange(1000) > 0), percent(torch.tensor([True, False, True]))
    ('99 %', '67 %')
    """
    share = 100 * float(flags.double().mean())
    return f"{round(share) if share in (0, 100) else min(99, max(1, round(share)))} %"
