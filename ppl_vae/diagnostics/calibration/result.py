"""What simulations say of a guide: ranks, p-values, coverage, and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ppl_vae.diagnostics.calibration.quantities import Kind
from ppl_vae.diagnostics.calibration.uniformity import (
    EcdfTest,
    chi_square_p_value,
    fraction_below,
    ks_p_value,
    symmetry_p_value,
)
from ppl_vae.plots.axes import array
from ppl_vae.plots.calibration_curves import calibration_curves

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Calibration", "Ranked"]


@dataclass(frozen=True, eq=False)
class Ranked:
    """The ranks of one quantity.

    Attributes:
        kind: "latent", "quantity", or "region": of the last the rank is the level, from 0 to L, of the smallest region
            of its kind that holds the truth.
        ranks: (N,) long, from 0 to L.
        highest: L, the number of draws.
    """

    kind: Kind
    ranks: Tensor
    highest: int

    @cached_property
    def numbers(self) -> np.ndarray[Any, Any]:
        """The ranks as an array."""
        return array(self.ranks)

    def coverage(self, level: float) -> float:
        """The share of simulations whose truth lies in the region, or the central interval, of this level."""
        if self.kind == "region":
            return fraction_below(self.numbers, self.highest, level)
        ends = [fraction_below(self.numbers, self.highest, (1 + side * level) / 2) for side in (1, -1)]
        return ends[0] - ends[1]

    @property
    def z_scores(self) -> tuple[float, float]:
        """How far mean and spread of the ranks are from those of uniform ones, in standard errors."""
        count = self.highest + 1
        u = (self.numbers + 0.5) / count
        centered = (np.arange(count) + 0.5) / count - 0.5
        found = []
        for power, apart in ((1, u - 0.5), (2, (u - 0.5) ** 2)):
            expected = centered**power
            found.append((apart.mean() - expected.mean()) / max(expected.std() / len(u) ** 0.5, 1e-300))
        return float(found[0]), float(found[1])

    @property
    def reading(self) -> str:
        """What ranks that are not uniform say, in words."""
        shift, spread = self.z_scores
        if max(abs(shift), abs(spread)) < 3:
            return "of another shape"
        if self.kind == "region":
            return ("regions too small" if shift > 0 else "regions too large") if abs(shift) >= 3 else "uneven regions"
        if abs(shift) >= abs(spread):
            return "draws too low" if shift > 0 else "draws too high"
        return "draws too narrow" if spread > 0 else "draws too wide"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the truth among draws of the guide, in data simulated by the model; uniform where q = p(z | x).

    Attributes:
        ranked: by label, such as "z[0]", "log p(x | z)", "highest density", "TARP".
        threshold: the guide passes if the least p-value times their number is at least this: so often at most an exact
            one fails.
        missing: what could not be asked, and why.
        refitted: each simulation is a data set with a fit of its own.
    """

    ranked: Mapping[str, Ranked]
    threshold: float = 0.01
    missing: Mapping[str, str] = field(default_factory=dict)
    refitted: bool = False

    @property
    def num_simulations(self) -> int:
        """N."""
        return len(self._first.ranks)

    @property
    def num_samples(self) -> int:
        """L, draws of the guide at each simulation."""
        return self._first.highest

    @property
    def ranks(self) -> dict[str, Tensor]:
        """(N,) long by label, from 0 to L."""
        return {label: ranked.ranks for label, ranked in self.ranked.items()}

    @cached_property
    def p_values(self) -> dict[str, float]:
        """By label, that of the distribution function of the ranks, exact; see :class:`EcdfTest`."""
        return {label: self._test.p_value(ranked.numbers) for label, ranked in self.ranked.items()}

    @property
    def passes(self) -> bool:
        """Is no p-value below ``threshold`` over their number (Bonferroni)?"""
        return min(self.p_values.values()) >= self._required

    def coverage(self, level: float) -> dict[str, float]:
        """The share of simulations whose truth lies in the region, or the central interval, of this level, by label.

        Args:
            level: from 0 to 1; what is returned where the guide is exact, but for chance.
        """
        if not 0 <= level <= 1:
            raise ValueError(f"coverage: a level from 0 to 1 is required, got {level}")
        return {label: ranked.coverage(level) for label, ranked in self.ranked.items()}

    @property
    def points(self) -> np.ndarray[Any, Any]:
        """Where distribution functions are looked at, (K,) from 0 to 1."""
        return self._test.points

    def distribution(self, label: str) -> np.ndarray[Any, Any]:
        """The distribution function of the ranks of one quantity at ``points``, (K,); of a region, its coverage."""
        found: np.ndarray[Any, Any] = self._test.counts(self.ranked[label].numbers) / self.num_simulations
        return found

    def band(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The limits at ``points``, (K,) each, that a distribution function leaves where its p-value is too low."""
        return self._test.band(1 - self._required)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a quantity.

        Columns: kind; mean_rank (of ranks from 0 to 1; 0.5 is right); covered_50 and covered_90, the share of
        simulations whose truth lies in the central interval or the region of that level; p_value (exact, of the
        distribution function), p_chi2, p_ks (what the package sbi prints), p_symmetry (of bias alone); and what the
        ranks say where p_value is too low.
        """
        import pandas as pd

        rows = []
        for label, ranked in self.ranked.items():
            numbers, p = ranked.numbers, self.p_values[label]
            rows.append(
                {
                    "quantity": label,
                    "kind": ranked.kind,
                    "mean_rank": float((numbers.mean() + 0.5) / (self.num_samples + 1)),
                    "covered_50": ranked.coverage(0.5),
                    "covered_90": ranked.coverage(0.9),
                    "p_value": p,
                    "p_chi2": chi_square_p_value(numbers, self.num_samples),
                    "p_ks": ks_p_value(numbers, self.num_samples),
                    "p_symmetry": symmetry_p_value(numbers, self.num_samples),
                    "reading": "" if p >= self._required else ranked.reading,
                }
            )
        return pd.DataFrame(rows).set_index("quantity")

    def plot(self, *, regions: bool = False, ax: Axes | None = None) -> Axes:
        """The distribution function of the ranks minus that of uniform ones, with the band that these keep to.

        Args:
            regions: draw expected coverage minus level of the two kinds of regions instead of latents and quantities.
            ax: where to draw; by default a new figure.
        """
        labels = [label for label, ranked in self.ranked.items() if (ranked.kind == "region") == regions]
        curves = {label: self.distribution(label) for label in labels}
        outside = [label for label in labels if self.p_values[label] < self._required]
        return calibration_curves(self.points, curves, self.band(), outside=outside, regions=regions, ax=ax)

    def __repr__(self) -> str:
        worst = self._worst(self.ranked)
        p = self.p_values[worst]
        shown = f"{p:.2g}" if p >= 1e-99 else "below 1e-99"
        least = f"the least of {len(self.ranked)} p-values is {shown} ({worst}), {self._required:.2g} is required"
        if self.passes:
            told = f"calibrated as far as they tell: {least}"
        else:
            told = f"NOT CALIBRATED: {least}; {'; '.join(self._failures())}"
        if self.refitted:
            told += f". {self._bias()}"
        left_out = "".join(f". Not asked: {label} ({why})" for label, why in self.missing.items())
        what = "data sets, a fit and" if self.refitted else "simulations,"
        each = "" if self.refitted else " each"
        return f"Calibration({self.num_simulations} {what} {self.num_samples} draws{each}): {told}{left_out}"

    def _bias(self) -> str:
        """Whether the ranks are lopsided, in words: a normal guide may be narrow, and yet right in the middle."""
        found = {label: symmetry_p_value(ranked.numbers, self.num_samples) for label, ranked in self.ranked.items()}
        worst = min(found, key=lambda label: found[label])
        seen = "bias" if found[worst] < self._required else "no bias seen"
        return f"By the symmetry of the ranks: {seen} (least p-value {found[worst]:.2g}, {worst})"

    def _failures(self) -> Iterator[str]:
        """What is wrong, in words: the worst quantity of each kind."""
        for kind in ("latent", "quantity", "region"):
            failed = [n for n, r in self.ranked.items() if r.kind == kind and self.p_values[n] < self._required]
            if failed:
                ranked = self.ranked[worst := self._worst(failed)]
                what = "regions" if kind == "region" else "intervals"
                held = f"90 % {what} hold {100 * ranked.coverage(0.9):.0f} %"
                yield f"{worst}: {ranked.reading}, {held}"

    def _worst(self, labels: Iterable[str]) -> str:
        return min(labels, key=lambda label: self.p_values[label])

    @property
    def _first(self) -> Ranked:
        return next(iter(self.ranked.values()))

    @property
    def _required(self) -> float:
        return self.threshold / len(self.ranked)

    @cached_property
    def _test(self) -> EcdfTest:
        return EcdfTest(self.num_simulations, self.num_samples)
