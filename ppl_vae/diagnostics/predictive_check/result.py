"""What replicated data say of a model: p-values, a table, figures, a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import _arviz
from ppl_vae.plots.check_histograms import check_histograms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["PredictiveCheck"]

FEW_NAMED = 3


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Numbers T of S replicated data sets beside those of the data.

    Attributes:
        names: of the Q quantities.
        replicated: (S, Q), float64.
        observed: (Q,), likewise, of the data.
        kind: where the latents of the replicated data are from: "posterior", "mixed" or "prior".
        data: by observed site, (N, ...).
        replicates: by observed site, the first data sets themselves, (at most 50, N, ...).
        num_rows: N.
        seen: were the rows among those of the fit? None: not known.
        conditioned: were a row's own latents drawn given that very row?
        fitted: does what the replicates are made from hang on a fit?
        threshold: how often any p-value may be called extreme, if they were uniform.
    """

    names: tuple[str, ...]
    replicated: Tensor
    observed: Tensor
    kind: str
    data: Mapping[str, Tensor]
    replicates: Mapping[str, Tensor]
    _: KW_ONLY
    num_rows: int
    seen: bool | None
    conditioned: bool
    fitted: bool
    threshold: float = 0.05

    # -- numbers -------------------------------------------------------------------------------------------------------

    @property
    def num_samples(self) -> int:
        """S, replicated data sets."""
        return len(self.replicated)

    @cached_property
    def p_values(self) -> Tensor:
        """(Q,), the share of replicates whose T is greater than that of the data, with half of those where it is the
        same; near 0 the data's is higher than what the model makes, near 1 it is lower.
        """
        greater, same = self.replicated > self.observed, self.replicated == self.observed
        return (greater.double() + 0.5 * same.double()).mean(0)

    @cached_property
    def standard_errors(self) -> Tensor:
        """(Q,), their Monte Carlo errors; not 0 where no replicate, or every one, is greater."""
        share = (self.num_samples * self.p_values + 0.5) / (self.num_samples + 1)
        return (share * (1 - share) / self.num_samples).sqrt()

    @property
    def two_sided(self) -> Tensor:
        """(Q,), twice the smaller side."""
        return 2 * torch.minimum(self.p_values, 1 - self.p_values)

    @property
    def extreme(self) -> Tensor:
        """(Q,) bool, is a p-value too near to 0 or 1 (Bonferroni)?"""
        return self.two_sided < self.threshold / len(self.names)

    @property
    def conservative(self) -> str:
        """Why p-values are not uniform where the model is right, but crowd around 1/2; empty where they are uniform."""
        if self.conditioned:
            return "each row's latents were drawn given that very row"
        if not self.fitted or self.seen is False:
            return ""
        return "the fit has seen these rows" if self.seen else "the fit may have seen these rows"

    # -- shown ---------------------------------------------------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """One row a quantity: observed; mean, sd, q5, q50, q95 of the replicates; p_value, p_value_error; reading."""
        import pandas as pd

        probabilities = (0.05, 0.5, 0.95)
        quantiles = self.replicated.quantile(torch.tensor(probabilities, dtype=torch.float64), 0)
        columns = {"observed": self.observed, "mean": self.replicated.mean(0), "sd": self.replicated.std(0)}
        columns |= {f"q{100 * p:g}": quantiles[i] for i, p in enumerate(probabilities)}
        columns |= {"p_value": self.p_values, "p_value_error": self.standard_errors}
        table: dict[str, Any] = {name: value.numpy() for name, value in columns.items()}
        table["reading"] = [self._reading(place) for place in range(len(self.names))]
        return pd.DataFrame(table, index=pd.Index(self.names, name="quantity"))

    def to_inference_data(self, *, quantities: bool = False) -> Any:
        """For ArviZ: the predictive group of this kind, and ``observed_data``.

        Args:
            quantities: the numbers T, all of them, each as a variable; else the (at most 50) replicated data sets.
        """
        if quantities:
            made = {name: self.replicated[:, i] for i, name in enumerate(self.names)}
            observed = {name: self.observed[i] for i, name in enumerate(self.names)}
        else:
            made, observed = dict(self.replicates), dict(self.data)
        groups = {
            f"{self._group}_predictive": {name: value.unsqueeze(0).numpy() for name, value in made.items()},
            "observed_data": {name: np.asarray(value.numpy()) for name, value in observed.items()},
        }
        dims = {} if quantities else {name: self._dims(name) for name in observed}
        return _arviz.inference_data(groups, coords={}, dims=dims)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """A histogram of each quantity over the replicates, with a line where the data's is."""
        return check_histograms(self, ax=ax)

    def plot_arviz(self, **options: Any) -> Any:
        """ArviZ's own figure of the quantities: ``plot_bpv`` (0.23, whose p-value is 1 less ours) or
        ``plot_ppc_tstat`` (1.x); a matplotlib ``Figure``.
        """
        return _arviz.plot_test_quantities(self.to_inference_data(quantities=True), group=self._group, **options)

    def plot_ppc(self, **options: Any) -> Any:
        """ArviZ's own figure of the data beside replicated data: ``plot_ppc`` (0.23) or ``plot_ppc_dist`` (1.x)."""
        return _arviz.plot_ppc(self.to_inference_data(), group=self._group, **options)

    def __repr__(self) -> str:
        head = f"PredictiveCheck({self.kind}, {self.num_samples} replicates of {self.num_rows} rows)"
        return f"{head}: {self._told()}{self._caution()}"

    def _told(self) -> str:
        order = self.two_sided.argsort(stable=True).tolist()
        found = [place for place in order if bool(self.extreme[place])]
        if found:
            words = ", ".join(f"{self.names[place]} {self._reading(place)}" for place in found[:FEW_NAMED])
            words += " and others" if len(found) > FEW_NAMED else ""
            return f"the data are NOT LIKE those of the model in {len(found)} of {len(self.names)} quantities: {words}"
        worst = order[0]
        p, error = float(self.p_values[worst]), float(self.standard_errors[worst])
        which = "the one p-value" if len(order) == 1 else f"of {len(order)} p-values the most extreme"
        return f"no difference found: {which} is {p:.3f} ± {error:.1g} ({self.names[worst]})"

    def _caution(self) -> str:
        why = self.conservative
        if not why:
            return ""
        return (
            f". Since {why}, p-values crowd around 1/2 where the model is right (they are conservative): one near 0 or "
            "1 counts, one that is not proves little; rows held out of the fit, with kind='mixed', do without this"
        )

    def _reading(self, place: int) -> str:
        """What an extreme p-value says, in words; empty where it is none."""
        if not bool(self.extreme[place]):
            return ""
        p, value = float(self.p_values[place]), float(self.observed[place])
        share = min(p, 1 - p)
        shown = f"{100 * share:.2g} %" if share > 0 else f"less than {100 / self.num_samples:.2g} %"
        side, others = ("high", "higher") if p < 0.5 else ("low", "lower")
        middle = float(self.replicated[:, place].median())
        return (
            f"is too {side} ({value:.4g}; {middle:.4g} in the middle of the replicates, {shown} of them are {others})"
        )

    @property
    def _group(self) -> _arviz.Kind:
        return "prior" if self.kind == "prior" else "posterior"

    def _dims(self, name: str) -> list[str]:
        """Names of the dimensions of a site: as many in the data as in each replicate."""
        return [f"{name}_dim_{axis}" for axis in range(self.data[name].dim())]
