"""Draws that stand for the posterior where the guide is nearly right: each with its importance weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.rows import Rows
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan
from ppl_vae.evidence.importance import WIDTHS, parts_of, proposed
from ppl_vae.evidence.mixture import weigh
from ppl_vae.evidence.psis import khat_limit, psis_weights
from ppl_vae.evidence.self_normalized import Estimate, mean_of, quantile_of, sd_of
from ppl_vae.evidence.weights import effective_sample_size, khat
from ppl_vae.pair import pair_of

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.pair import Fitted, Pair

__all__ = ["WeightedDraws", "weighted_draws"]

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Draws of a proposal with the weights that lead them to the posterior.

    They may come from anywhere: a guide, a wider one, a Student t; what counts is ``log_weight``.

    Attributes:
        values: latents by site, (S, ...) where all data share them, (S, N, ...) of each datum.
        log_weight: log p(x, z) - log of the proposal's density, (S,), or (S, N) with latents of each datum alone; nats.

    >>> draws = WeightedDraws({"z": torch.tensor([0.0, 1.0])}, torch.tensor([1.0, 3.0]).log())
    >>> draws.mean()["z"].value
    tensor(0.7500, dtype=torch.float64)
    """

    values: Mapping[str, Tensor]
    log_weight: Tensor

    @cached_property
    def weights(self) -> Tensor:
        """Pareto smoothed weights that sum to 1, (S,) or (S, N), float64."""
        return psis_weights(self.log_weight)

    @cached_property
    def khat(self) -> Tensor:
        """The shape of the tail of the raw weights, () or (N,)."""
        return khat(self.log_weight.double())

    @property
    def ess(self) -> Tensor:
        """How many equally weighted draws they are worth, () or (N,)."""
        return effective_sample_size(self.log_weight.double())

    @property
    def believable(self) -> Tensor:
        """Is k-hat at most what so many draws allow, () or (N,) bool?"""
        return self.khat <= khat_limit(len(self.log_weight))

    def mean(self) -> dict[str, Estimate]:
        """Posterior means by site, (...) or (N, ...), with Monte Carlo errors."""
        return {name: mean_of(value.double(), self._of(name)) for name, value in self.values.items()}

    def sd(self) -> dict[str, Estimate]:
        """Posterior standard deviations by site, likewise."""
        return {name: sd_of(value.double(), self._of(name)) for name, value in self.values.items()}

    def quantile(self, probability: float) -> dict[str, Estimate]:
        """Posterior quantiles by site, likewise."""
        return {name: quantile_of(value.double(), self._of(name), probability) for name, value in self.values.items()}

    def _of(self, name: str) -> Tensor:
        weights, value = self.weights, self.values[name]
        if weights.dim() > 1 and value.shape[:2] != weights.shape:
            raise ValueError(f"WeightedDraws: {name!r} is of shape {tuple(value.shape)}, the weights {weights.shape}")
        return weights

    def resample(self, num_samples: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Plain draws, equally weighted: (num_samples, ...) by site, by systematic resampling of the smoothed weights.

        A draw that weighs more than 1 / num_samples comes more than once; the order is shuffled. With latents of each
        datum alone, data are resampled one by one. These draws have no weight of their own: weighing them again would
        correct twice.

        James Carpenter, Peter Clifford, Paul Fearnhead, "Improved particle filter for nonlinear problems", 1999.
        """
        if num_samples < 1:
            raise ValueError(f"resample: at least one draw is required, got {num_samples}")
        generator = torch.Generator().manual_seed(seed)
        flat = self.weights.reshape(len(self.weights), -1)
        chosen = torch.stack([_systematic(column, num_samples, generator) for column in flat.T], 1)
        if self.weights.dim() == 1:
            return {name: value[chosen[:, 0]] for name, value in self.values.items()}
        rows = torch.arange(flat.shape[1])
        return {name: value[chosen, rows] for name, value in self.values.items()}

    def summary(self, quantiles: Sequence[float] = QUANTILES) -> pd.DataFrame:
        """A table: an entry a row; mean, sd and quantiles, with the Monte Carlo errors of the first two."""
        import pandas as pd

        columns: dict[str, dict[str, Estimate]] = {"mean": self.mean(), "sd": self.sd()}
        columns |= {f"q{100 * q:g}": self.quantile(q) for q in quantiles}
        names = [
            f"{name}[{', '.join(map(str, place))}]" if place else name
            for name, value in self.values.items()
            for place in np.ndindex(*value.shape[1:])
        ]
        table = {label: torch.cat([e.value.flatten() for e in by.values()]) for label, by in columns.items()}
        errors = {
            f"mcse_{label}": torch.cat([e.standard_error.flatten() for e in columns[label].values()])
            for label in ("mean", "sd")
        }
        return pd.DataFrame({k: v.numpy() for k, v in {**table, **errors}.items()}, index=names)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(value.shape[1:])}" for name, value in self.values.items())
        head = f"WeightedDraws({len(self.log_weight)} of {shapes})"
        limit = khat_limit(len(self.log_weight))
        if self.log_weight.dim() == 1:
            told = f"worth {float(self.ess):.0f} draws, k-hat {float(self.khat):.2f}"
        else:
            good = float(self.believable.double().mean())
            told = f"k-hat at most {limit:.2f} for {good:.0%} of {self.log_weight.shape[1]} data"
        if not bool(self.believable.all()):
            told += f"; above {limit:.2f} do not believe the weights: they miss a part of the posterior without a sign"
        return f"{head}: {told}"


def weighted_draws(
    pair: Pair | Fitted,
    data: Any = None,
    num_samples: int = 4000,
    *,
    widths: Sequence[float] = WIDTHS,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> WeightedDraws:
    """Draw from the guide and from the guide with a wider spread, and weigh the draws by the posterior.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them.
        num_samples: S, over all widths; all are held in memory.
        widths: of the guide's spread; the first is 1.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle.

    Raises:
        ValueError: the guide is a point mass (``AutoDelta``): it has no density to weigh draws by.
    """
    pair = pair_of(pair)
    source = pair.rows(data)
    rows = source if isinstance(source, Rows) else source.take(slice(None))
    pair.initialize(rows).sites.require_density("weighted_draws")
    counts = parts_of(pair, num_samples, widths)
    block = Plan.of(pair, rows, num_samples, max_elements).draws
    values: dict[str, list[Tensor]] = {}
    weights = []
    for drawn in proposed(pair, rows, counts, widths, block, (fold(seed, "weighted draws"),)):
        weights.append(weigh(drawn.draws.log_p.total, drawn.log_q, counts)[0])
        for name, value in drawn.draws.values.items():
            values.setdefault(name, []).append(value)
    return WeightedDraws({name: torch.cat(parts) for name, parts in values.items()}, torch.cat(weights))


def _systematic(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The numbers of ``count`` draws of weights (S,) that sum to 1, in random order."""
    offset = torch.rand((), dtype=weights.dtype, generator=generator)
    points = (torch.arange(count, dtype=weights.dtype) + offset) / count
    chosen = torch.searchsorted(weights.cumsum(0), points, right=True).clamp_max(len(weights) - 1)
    return chosen[torch.randperm(count, generator=generator)]
