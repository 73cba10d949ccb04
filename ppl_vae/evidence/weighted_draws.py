"""Draws that stand for the posterior where the guide is nearly right: each with its importance weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae.evidence.evidence import percent
from ppl_vae.evidence.pooling import khat_limit
from ppl_vae.evidence.psis import psis_weights
from ppl_vae.evidence.resampling import systematic
from ppl_vae.evidence.self_normalized import Estimate, mean_of, quantile_of, sd_of
from ppl_vae.evidence.weights import DRAWN_APART, effective_sample_size, is_constant, khat

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WeightedDraws"]

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Independent draws of a proposal with the weights that lead them to the posterior.

    They may come from anywhere: a guide, a wider one, a Student t at the scale of a Laplace fit; what counts is
    ``log_weight``. Means, sds and quantiles are self-normalized: constants in the weights cancel.

    Args:
        values: latents by site, (S, ...) where all data share them, (S, N, ...) of each datum.
        log_weight: log p(x, z) - log of the proposal's density, (S,), or (S, N) with latents of each datum alone; nats.
        others: log weights of other draws of the same proposal, (T,) or (T, N). k-hat is read off them where they are
            given: off the draws themselves it is low just where these miss the tail, so that it selects the failures.
        resolution: the relative error of the numbers; weights that spread by no more are constant (k-hat 0).
        coincide: where all draws are one code, () or (N,) bool: constant weights prove nothing there (k-hat nan).

    >>> draws = WeightedDraws({"z": torch.tensor([0.0, 1.0])}, torch.tensor([1.0, 3.0]).log())
    >>> draws.mean()["z"].value
    tensor(0.7500, dtype=torch.float64)
    """

    values: Mapping[str, Tensor]
    log_weight: Tensor
    _: KW_ONLY
    others: Tensor | None = None
    resolution: float = 1e-9
    coincide: Tensor = DRAWN_APART

    @cached_property
    def weights(self) -> Tensor:
        """Pareto smoothed weights that sum to 1, (S,) or (S, N), float64."""
        return psis_weights(self.log_weight, resolution=self.resolution)

    @cached_property
    def khat(self) -> Tensor:
        """The shape of the tail of the raw weights, () or (N,); nan where it cannot be found."""
        found = khat(self._judged.double(), resolution=self.resolution)
        return found.masked_fill(self._proves_nothing, torch.nan)

    @property
    def khat_limit(self) -> float:
        """The greatest k-hat that so many draws allow."""
        return khat_limit(len(self._judged))

    @property
    def ess(self) -> Tensor:
        """How many equally weighted draws they are worth, () or (N,)."""
        return effective_sample_size(self.log_weight.double()).masked_fill(self._proves_nothing, 1.0)

    @property
    def believable(self) -> Tensor:
        """Is k-hat known, and at most what so many draws allow, () or (N,) bool?"""
        return self.khat <= self.khat_limit

    @property
    def warning(self) -> str:
        """Why the weights are not to be believed; empty where they are."""
        if bool(self.believable.all()):
            return ""
        where = "" if self.khat.dim() == 0 else f" for {int((~self.believable).sum())} of {len(self.khat)} data"
        return (
            f"k-hat is not known to be within {self.khat_limit:.2f}{where}: the draws may miss a part of the posterior "
            "that neither values nor errors show; take a richer guide"
        )

    @property
    def _judged(self) -> Tensor:
        return self.log_weight if self.others is None else self.others

    @property
    def _proves_nothing(self) -> Tensor:
        return is_constant(self.log_weight.double(), self.resolution) & self.coincide

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

        A draw of weight w comes num_samples w times, rounded up or down, so that it does so on average: the scheme is
        unbiased, and adds nothing to equal weights. It is with replacement; without, great weights would count once,
        and draws go back to the proposal as more are taken. The order is shuffled. With latents of each datum alone,
        data are resampled one by one. These draws have no weight of their own: weighing them again would correct twice.

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
        """A table, an entry a row: mean, sd, quantiles, the Monte Carlo error of each (``mcse_``), and k-hat.

        Where the weights are not to be believed, ``attrs["warning"]`` says so.
        """
        import pandas as pd

        columns = {"mean": self.mean(), "sd": self.sd(), **{f"q{100 * q:g}": self.quantile(q) for q in quantiles}}
        names = [
            f"{name}[{', '.join(map(str, place))}]" if place else name
            for name, value in self.values.items()
            for place in np.ndindex(*value.shape[1:])
        ]
        table = {label: _flat(estimate.value for estimate in by.values()) for label, by in columns.items()}
        table |= {f"mcse_{label}": _flat(e.standard_error for e in by.values()) for label, by in columns.items()}
        table["khat"] = _flat(_along(self.khat, value[0]) for value in self.values.values())
        frame = pd.DataFrame(table, index=names)
        if self.warning:
            frame.attrs["warning"] = self.warning
        return frame

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(value.shape[1:])}" for name, value in self.values.items())
        head = f"WeightedDraws({len(self.log_weight)} of {shapes})"
        if self.log_weight.dim() == 1:
            told = f"worth {float(self.ess):.0f} draws, k-hat {float(self.khat):.2f}"
        else:
            told = f"k-hat at most {self.khat_limit:.2f} for {percent(self.believable)} of {len(self.khat)} data"
        return f"{head}: {told}" + (f". NOT TO BE BELIEVED: {self.warning}" if self.warning else "")


def _flat(parts: Iterable[Tensor]) -> np.ndarray:
    return torch.cat([part.flatten() for part in parts]).numpy()


def _along(of_data: Tensor, entries: Tensor) -> Tensor:
    """A number of each datum (N,), or one () of all, for every entry (N, ...) of its latents."""
    return of_data.reshape((*of_data.shape, *[1] * (entries.dim() - of_data.dim()))).expand(entries.shape)


def _systematic(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The numbers of ``count`` draws of weights (S,) that sum to 1, in random order."""
    offset = torch.rand((), dtype=weights.dtype, generator=generator)
    return systematic(weights, count, offset)[torch.randperm(count, generator=generator)]
