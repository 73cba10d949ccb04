"""log p(x) from both sides: chains that walk to the posterior lie below, chains that walk back from it above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.source import whole
from ppl_vae.evidence.annealing.annealed import Annealed, Sequential
from ppl_vae.evidence.annealing.near import near_posterior
from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.pair import pair_of
from ppl_vae.pair.simulations import ToData, simulate
from ppl_vae.plots.sandwich_points import sandwich_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Sandwich", "bidirectional", "sandwich"]

TRANSITIONS = 20
"""Of chains at the posterior, before they walk back."""


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Evidence of the same data from both sides, per datum, in nats.

    Attributes:
        lower: by chains that walk to the posterior: a lower bound.
        upper: by chains that walk back from draws of the posterior: an upper bound where these are exact
            (``upper.bound``), else an estimate without guarantee.
        simulated: the same for data that the model has simulated, where both sides are bounds; None where the data are
            simulated ones.
    """

    lower: Evidence
    upper: Evidence
    simulated: Sandwich | None = None

    @property
    def gap(self) -> Tensor:
        """Upper - lower, (N,) or (), nats: what is not known of log p(x)."""
        return self.upper.value - self.lower.value

    def to_dataframe(self) -> pd.DataFrame:
        """One row a datum: lower, lower_error, upper, upper_error, gap."""
        import pandas as pd

        columns = {
            "lower": self.lower.value,
            "lower_error": self.lower.standard_error,
            "upper": self.upper.value,
            "upper_error": self.upper.standard_error,
            "gap": self.gap,
        }
        return pd.DataFrame({k: v.reshape(-1).numpy() for k, v in columns.items()}).rename_axis("datum")

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Both sides of every datum; see :func:`ppl_vae.plots.sandwich_points`."""
        return sandwich_points(self, ax=ax)

    def __repr__(self) -> str:
        low, high = _in_words(self.lower), _in_words(self.upper)
        rows = f", of {self.gap.numel()} rows" if self.gap.dim() else ""
        gap = f"{'median ' if rows else ''}gap {float(self.gap.median()):.3f} nats{rows}"
        if self.upper.bound == "upper":
            return f"log p(x) between {low} and {high}, both bounds in expectation; {gap}"
        text = (
            f"log p(x) above {low} in expectation, and about {high} from above, which is an estimate and no bound (the "
        )
        text += f"draws of the posterior are not exact); {gap}"
        return text if self.simulated is None else f"{text}. Simulated data: {self.simulated!r}"


def _in_words(evidence: Evidence) -> str:
    mean = evidence.mean()
    return f"{mean.value:.3f} ± {mean.error_in_words('.2g')}"


def bidirectional(
    pair: Pair | Fitted,
    data: Any = None,
    estimator: Annealed | None = None,
    *,
    num_data: int | None = None,
    to_data: ToData | None = None,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Sandwich:
    """Simulate data from the model, and estimate their evidence from both sides: both are bounds in expectation.

    The latents that a datum was made from are an exact draw of its posterior, which the way back starts from. How
    narrow the gap is says how good the chains are on such data, with no doubt about it.

    Args:
        pair: a Pair, or a Fit.
        data: rows whose covariates (all that is not observed) the simulated ones have, in turn; N of them are simulated
            unless ``num_data`` says otherwise.
        estimator: ``Annealed()`` by default.
        to_data: from simulated sites by name, (N, ...), and the rows they were simulated on to what the model is called
            with, where an observed site is no argument as it is.
        seed: of data and chains.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        the Sandwich.

    Raises:
        ValueError: data cannot be simulated (a factor, an improper prior), or not be put where the data were.

    Roger Grosse, Siddharth Ancha, Daniel Roy: "Measuring the reliability of MCMC inference with bidirectional Monte
    Carlo", 2016.
    """
    pair, estimator = pair_of(pair), _required(estimator, "bidirectional")
    if num_data is not None and num_data < 1:
        raise ValueError(f"bidirectional: num_data must be at least 1, got {num_data}")
    rows = _whole(pair, data)
    pair.sites.require_proper("bidirectional", {})
    options: Any = {"to_data": to_data, "seed": fold(seed, "data"), "max_elements": max_elements}
    made = simulate(pair, rows, num_data or len(rows), **options)
    exact = {name: value.unsqueeze(0).to(pair.device) for name, value in made.latents.items()}
    prepared = estimator.prepared(pair, made.rows, seed, max_elements=max_elements)
    say_of_weights(pair, "bidirectional")
    return Sandwich(estimator.forward(prepared), estimator.reverse(prepared, exact))


def sandwich(
    pair: Pair | Fitted,
    data: Any = None,
    estimator: Annealed | None = None,
    *,
    simulated: bool = True,
    to_data: ToData | None = None,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Sandwich:
    """Estimate the evidence of data from both sides, and of as many that the model has simulated.

    Of real data nobody has an exact draw of the posterior. The way back starts from weighted draws of the guide that
    have walked at the posterior for a while: near it where the guide is, and what it gives is an estimate, no bound. So
    the same is done with simulated data (:func:`bidirectional`), where both sides are.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them.
        estimator: ``Annealed()`` by default.
        simulated: simulate data too.
        to_data, seed, max_elements: as for :func:`bidirectional`.

    Returns:
        the Sandwich.
    """
    pair, estimator = pair_of(pair), _required(estimator, "sandwich")
    rows = _whole(pair, data)
    pair.sites.require_density("sandwich")
    prepared = estimator.prepared(pair, rows, seed, max_elements=max_elements)
    noise = fold(seed, "posterior")
    near = near_posterior(pair, rows, estimator.num_particles, noise, max_elements=max_elements)
    lower = estimator.forward(prepared)
    upper = estimator.reverse(prepared, near, bound="estimate", transitions=TRANSITIONS)
    other = None
    if simulated:
        other = bidirectional(pair, rows, estimator, to_data=to_data, seed=seed, max_elements=max_elements)
    say_of_weights(pair, "sandwich")
    return Sandwich(lower, upper, other)


def _required(estimator: Annealed | None, who: str) -> Annealed:
    if estimator is None:
        return Annealed()
    if not isinstance(estimator, Annealed) or isinstance(estimator, Sequential):
        raise TypeError(f"{who}: chains that walk back are required, such as Annealed(1000, 16), got {estimator!r}")
    return estimator


def _whole(pair: Pair, data: Any) -> Rows:
    rows = whole(pair.rows(data))
    pair.initialize(rows)
    pair.sites.require_whole_plates("sandwich")
    return rows
