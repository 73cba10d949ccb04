"""What a reference posterior says of a guide: a table, a figure, a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae import _arviz
from ppl_vae.diagnostics.reference.beside import QUANTILES, Beside, ChainMoments, Moments
from ppl_vae.plots.reference_intervals import reference_intervals

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Reference"]

MOST_RHAT, FEWEST = 1.01, 400
"""Vehtari et al. (2021) ask for as much of chains that are to be relied on."""
FEW_NAMED = 3


@dataclass(frozen=True, eq=False)
class Reference:
    """A posterior by chains of NUTS, with the guide's draws and its weighted draws beside it, number by number.

    Attributes:
        names: of the D numbers, such as "z[0]".
        chains: means, sds, quantiles by NUTS, with Monte Carlo errors, R-hat and effective sizes.
        guide: the guide's plain draws beside them.
        weighted: its weighted draws; None for a point, which has no density to weigh draws by.
        believable: (D,) bool, does k-hat allow to believe the weights?
        khat: (D,), of the weights.
        draws: by site, (chains, draws, ...).
        diverging: (chains, draws) bool, transitions whose energy ran away.
        gradients: how many the chains took.
        moved: has every chain moved?
    """

    names: tuple[str, ...]
    chains: ChainMoments
    guide: Beside
    weighted: Beside | None
    believable: Tensor
    khat: Tensor
    draws: Mapping[str, Tensor]
    diverging: Tensor
    gradients: int
    moved: bool = True

    # -- what it says --------------------------------------------------------------------------------------------------

    @property
    def nuts(self) -> Moments:
        """Means, sds and quantiles by NUTS, (D,)."""
        return self.chains.moments

    @property
    def agrees(self) -> bool:
        """Is no number of the guide surely off by more than 0.1 posterior sds (mean, distance) or 10 % (sd)?"""
        return not bool(self.guide.off.any())

    @property
    def mended(self) -> bool:
        """Do the weighted draws agree where the guide does not, with weights that are to be believed?"""
        if self.weighted is None or self.agrees:
            return False
        return not bool(self.weighted.off.any()) and bool(self.believable[self.guide.off].all())

    @property
    def trusted(self) -> bool:
        """Are the chains to be relied on: none diverged, R-hat is at most 1.01, each number is worth 400 draws?"""
        return not self.warning

    @cached_property
    def warning(self) -> str:
        """Why the chains are not to be relied on; empty where they are."""
        return "; ".join(self._doubts())

    def _doubts(self) -> Iterator[str]:
        lost, total = int(self.diverging.sum()), self.diverging.numel()
        if not self.moved:
            yield "a chain has not moved at all: give it a longer warmup"
        if lost:
            yield (
                f"{lost} of {total} transitions diverged: there are places that the chains do not go into (the neck of "
                "a funnel); raise target_accept, or write the model non-centred"
            )
        varies = self.nuts.sd > 0
        ess = torch.minimum(self.chains.ess_bulk, self.chains.ess_tail).nan_to_num(0.0).where(varies, torch.inf)
        if float(ess.min()) < FEWEST:
            worst = int(ess.argmin())
            yield (
                f"the draws of {self.names[worst]} are worth {float(ess[worst]):.0f} (at least {FEWEST} are required); "
                "take a larger num_samples"
            )
        rhat = self.chains.rhat.nan_to_num(torch.inf).where(varies, 1.0)
        if float(rhat.max()) > MOST_RHAT:
            worst = int(rhat.argmax())
            yield (
                f"R-hat is {float(rhat[worst]):.3f} for {self.names[worst]} (at most {MOST_RHAT}): the chains do not "
                "agree; run them longer (num_samples, warmup), and see whether they are in modes of their own"
            )

    # -- shown ---------------------------------------------------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """One row a number.

        Columns: mean, sd, q5, q50, q95 by NUTS, each with its Monte Carlo error (``mcse_``); rhat, ess_bulk, ess_tail.
        Of the guide (``guide_``) and of its weighted draws (``weighted_``): mean, sd, q5, q50, q95, and, in sds by
        NUTS, shift (of the mean, with ``shift_error``), sd_ratio (with ``sd_ratio_error``), distance (1-Wasserstein)
        and chance, what two sets of draws of one posterior stay below in 99 % of all cases; reading, what is off, in
        words. khat of the weights.
        """
        import pandas as pd

        columns = _moments(self.nuts, "") | {
            f"mcse_{name}": value
            for name, value in {
                "mean": self.nuts.mean_error,
                "sd": self.nuts.sd_error,
                **{_q(p): self.nuts.quantile_errors[i] for i, p in enumerate(QUANTILES)},
            }.items()
        }
        columns |= {"rhat": self.chains.rhat, "ess_bulk": self.chains.ess_bulk, "ess_tail": self.chains.ess_tail}
        table: dict[str, Any] = {name: value.numpy() for name, value in columns.items()}
        for prefix, beside in (("guide_", self.guide), ("weighted_", self.weighted)):
            if beside is not None:
                found = _moments(beside.moments, prefix) | {
                    f"{prefix}{name}": getattr(beside, name)
                    for name in ("shift", "shift_error", "sd_ratio", "sd_ratio_error", "distance", "chance")
                }
                table |= {name: value.numpy() for name, value in found.items()}
                table[f"{prefix}reading"] = [beside.reading(place) for place in range(len(self.names))]
        if self.weighted is not None:
            table["khat"] = self.khat.numpy()
        frame = pd.DataFrame(table, index=pd.Index(self.names, name="number"))
        if self.warning:
            frame.attrs["warning"] = self.warning
        return frame

    def to_inference_data(self) -> Any:
        """The chains for ArviZ (``az.plot_trace``, ``az.plot_pair``): ``posterior``, and ``diverging`` of each draw."""
        posterior = {name: value.numpy() for name, value in self.draws.items()}
        return _arviz.inference_data(
            {"posterior": posterior, "sample_stats": {"diverging": self.diverging.numpy()}}, coords={}, dims={}
        )

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Intervals from 5 to 95 % with medians by NUTS, the guide and its weighted draws, in sds by NUTS."""
        return reference_intervals(self, ax=ax)

    def __repr__(self) -> str:
        chains, draws = self.diverging.shape
        varies = self.nuts.sd > 0
        checks = (
            f"R-hat at most {float(self.chains.rhat[varies].max()) if bool(varies.any()) else float('nan'):.3f}, "
            f"{int(self.diverging.sum()) or 'no'} divergence{'' if int(self.diverging.sum()) == 1 else 's'}"
        )
        head = f"Reference({chains} chains of {draws} draws by NUTS, {checks})"
        told = self._told()
        if self.warning:
            return f"{head}: NOT TO BE TRUSTED as a reference: {self.warning}. As far as it goes, {told}"
        return f"{head}: {told}"

    def _told(self) -> str:
        count = len(self.names)
        if self.agrees:
            return f"the guide agrees in {'the one number' if count == 1 else f'all {count} numbers'}{self._farthest()}"
        off = [place for place in self.guide.farthest() if bool(self.guide.off[place])]
        told = f"the guide is OFF in {len(off)} of {count} numbers: {self._named(self.guide, off)}"
        return f"{told}. {self._of_weights()}"

    def _farthest(self) -> str:
        place = self.guide.farthest()[0]
        away, chance = float(self.guide.distance[place]), float(self.guide.chance[place])
        return f": {self.names[place]} is farthest, {away:.2f} posterior sds away (chance alone: up to {chance:.2f})"

    def _of_weights(self) -> str:
        if self.weighted is None:
            return "It is a point, and has no density to weigh draws by"
        off = [place for place in self.weighted.farthest() if bool(self.weighted.off[place])]
        worst = f"k-hat {float(self.khat[self.guide.off].nan_to_num(torch.inf).max()):.2f}"
        if off:
            still = self._named(self.weighted, off)
            return f"Its weighted draws are still off in {len(off)}: {still} ({worst}); take a richer guide"
        if not self.mended:
            return f"Its weighted draws agree, but their {worst} does not allow to believe it; take a richer guide"
        return f"Its weighted draws agree ({worst})"

    def _named(self, beside: Beside, off: Sequence[int]) -> str:
        words = [f"{self.names[place]} ({beside.reading(place)})" for place in off[:FEW_NAMED]]
        return ", ".join(words) + (" and others" if len(off) > FEW_NAMED else "")


def _q(probability: float) -> str:
    return f"q{100 * probability:g}"


def _moments(moments: Moments, prefix: str) -> dict[str, Tensor]:
    found = {"mean": moments.mean, "sd": moments.sd}
    found |= {_q(p): moments.quantiles[i] for i, p in enumerate(QUANTILES)}
    return {f"{prefix}{name}": value for name, value in found.items()}
