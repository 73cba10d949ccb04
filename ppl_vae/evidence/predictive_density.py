r"""log p(x_n | rows of the fit): what a fit with latents that all data share says of rows that it has not seen.

.. math:: \log p(x_n \mid X) = \log \int p(x_n \mid w) \, p(w \mid X) \, dw
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.headers import header_of
from ppl_vae.data.source import whole
from ppl_vae.evidence.chunks import MAX_ELEMENTS, resolution_of
from ppl_vae.evidence.conditional import WAYS, Integration, Local, given_shared
from ppl_vae.evidence.evidence import MeanEvidence, error_in_words, percent
from ppl_vae.evidence.importance import WIDTHS
from ppl_vae.evidence.observed import fingerprints
from ppl_vae.evidence.pooling import khat_limit
from ppl_vae.evidence.shared_draws import require_observed, require_shared, rows_of_fit, shared_draws
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.evidence.weighted_draws import WeightedDraws
from ppl_vae.evidence.weights import believable, khat
from ppl_vae.pair import pair_of, predictive

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["JointDensity", "PredictiveDensity", "log_predictive"]

WHO = "log_predictive"
INSTEAD = "log_evidence(rows) is log p(x | parameters) of held-out rows already"


@dataclass(frozen=True)
class JointDensity:
    """Log p(x_1, ..., x_N | rows of the fit), nats: rows share the latents, so it is not the sum of single rows.

    Attributes:
        value: the estimate.
        standard_error: its Monte Carlo error; nan where it is not known.
        khat: of the weights of all rows together: draws of the posterior given the rows of the fit hardly stand for the
            one given these rows too, where they are many.
    """

    value: float
    standard_error: float
    khat: float

    def __repr__(self) -> str:
        error = error_in_words(self.standard_error, ".2g")
        return f"{self.value:.3f} nats (Monte Carlo error {error}, k-hat {self.khat:.2f})"


@dataclass(frozen=True, eq=False)
class PredictiveDensity:
    """Log p(x_n | rows of the fit) of N rows, in nats.

    Attributes:
        value: (N,) float64.
        standard_error: (N,), its Monte Carlo error by the delta method, with what the weights scatter; nan where few
            draws carry the sum.
        khat: (N,), the shape of the upper tail of what is averaged, weight times p(x_n | w).
        weights_khat: k-hat of the weights alone: how far the draws stand for the posterior; 0 for the guide's plain
            draws, of which it is not asked.
        joint: log p of all rows together.
        mean_error: the Monte Carlo error of the mean over rows. All rows are of the same draws of w, so that their
            errors do not average out.
        num_samples: S, draws of the shared latents.
        weighted: by the posterior, or the guide's draws as they are.
        local: what became of a datum's own latents: "none", "summed out", "drawn from the guide" or "from the model".
        observed: (N,) a number that tells what is observed in each row from other data.
        names: of the rows.
    """

    value: Tensor
    standard_error: Tensor
    khat: Tensor
    weights_khat: float
    joint: JointDensity
    mean_error: float
    num_samples: int
    weighted: bool
    local: str
    observed: Tensor
    names: tuple[Any, ...]

    def mean(self) -> MeanEvidence:
        """The mean over the rows, nats per datum, with its Monte Carlo error and its sampling error."""
        count = len(self.value)
        spread = float(self.value.std()) / math.sqrt(count) if count > 1 else math.nan
        unknown = int(self.standard_error.isnan().sum())
        error = math.nan if unknown else self.mean_error
        return MeanEvidence(
            float(self.value.mean()), error, spread, num_unknown=unknown, num_data=count, known_error=self.mean_error
        )

    @property
    def khat_limit(self) -> float:
        """The greatest k-hat that so many draws allow."""
        return khat_limit(self.num_samples)

    @property
    def reliable(self) -> Tensor:
        """Are weights and average of a row to be believed, (N,) bool?"""
        weights = self.weights_khat <= self.khat_limit
        return (self.khat <= self.khat_limit) & self.standard_error.isfinite() & weights

    @property
    def warning(self) -> str:
        """Why values are not to be believed; empty where they are."""
        if not self.weights_khat <= self.khat_limit:
            return (
                f"k-hat of the weights is {self.weights_khat:.2f}, above {self.khat_limit:.2f}: the draws may not "
                "stand for the posterior; fit on until it has converged, or take a richer guide"
            )
        if not bool(self.reliable.all()):
            bad = int((~self.reliable).sum())
            return f"{bad} of {len(self.value)} rows lie where few draws do (k-hat above {self.khat_limit:.2f})"
        return ""

    def to_dataframe(self) -> pd.DataFrame:
        """One row a datum: value, standard_error, khat."""
        import pandas as pd

        columns = {name: getattr(self, name).numpy() for name in ("value", "standard_error", "khat")}
        frame = pd.DataFrame(columns, index=pd.Index(self.names, name="datum"))
        if self.warning:
            frame.attrs["warning"] = self.warning
        return frame

    def __repr__(self) -> str:
        draws = f"{self.num_samples} {'weighted' if self.weighted else 'plain'} draws of the guide"
        own = "" if self.local == "none" else f", latents of single data {self.local}"
        told = f"k-hat within {self.khat_limit:.2f} for {percent(self.reliable)}"
        head = f"PredictiveDensity({len(self.value)} rows, mean {self.mean()!r}; all rows together {self.joint!r}"
        end = f"; NOT TO BE BELIEVED: {self.warning}" if self.warning else ""
        return f"{head}; {draws}{own}, {told}{end})"


def log_predictive(
    pair: Pair | Fitted,
    data: Any,
    *,
    fitted_to: Any = None,
    num_samples: int = 4000,
    weighted: bool = True,
    widths: Sequence[float] = WIDTHS,
    local: Local = "auto",
    num_local: int = 32,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> PredictiveDensity:
    r"""Estimate log p(x_n | rows of the fit) of each of N new rows: the score of held-out data.

    .. math::
        \log p(x_n \mid X) \approx \log \sum_s \bar w_s \, p(x_n \mid w_s), \quad
        \bar w_s \propto \frac{p(X, w_s)}{q(w_s)}, \quad w_s \sim q

    The draws of the shared latents w are weighted to the posterior (self-normalized, Pareto smoothed). A datum's own
    latents are integrated out first: exactly where they are summed out or take few values, else by ``num_local`` draws
    for each w. **``log_evidence(rows)`` is something else**: log p(rows) under the prior, which has not seen the rows
    of the fit. Without shared latents there is no difference, and ``log_evidence`` is to be asked.

    The draws of w are the same for all rows: S N numbers are held, 8 bytes each. The value of a row does not depend on
    the others but by random draws of local latents, so that many rows can be given in parts.

    Args:
        pair: a Pair, or a Fit.
        data: N new rows, with all that the model observes.
        fitted_to: the rows of the fit; by default those that the fit has at hand.
        num_samples: S, draws of the shared latents.
        weighted: False takes the guide's draws as they are: what the guide says, and not the posterior.
        widths: of the guide's spread; see ``ImportanceWeighted``.
        local: who proposes a datum's own latents: "guide", "prior" (the model, given w), or "auto": the guide, unless
            it has a posterior for the rows of the fit alone, or draws all latents at once.
        num_local: draws of them for each w.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle.

    Raises:
        ValueError: no latents are shared; rows of the fit are not at hand; rows without what the model observes, or of
            other columns; the guide is a point mass; a plate draws a subsample; a shared latent is summed out (weighted
            draws).

    Aki Vehtari, Janne Ojanen: "A survey of Bayesian predictive methods for model assessment, selection and
    comparison", 2012.
    """
    fitted, pair = pair, pair_of(pair)
    known = _known(fitted, fitted_to, weighted)
    if known is not None:
        pair.initialize(known)
    source = pair.rows(data, of_guide=local == "guide")
    pair.initialize(source)
    require_shared(pair, WHO, INSTEAD)
    pair.sites.require_whole_plates(WHO)
    require_observed(pair, source, WHO)
    rows = whole(source)
    if not len(rows):
        raise ValueError(f"{WHO}: at least one row is required, got none")
    how = Integration(local, num_local, widths, max_elements)
    draws = _draws(pair, known, num_samples, how, weighted=weighted, seed=seed)
    given = given_shared(pair, rows, draws.values, how, seed=fold(seed, WHO))
    say_of_weights(pair, WHO)
    log_mean, influence = averaged(given.log_p, draws.weights)
    together = given.log_p.sum(1, keepdim=True)
    log_joint, of_joint = averaged(together, draws.weights)
    resolution = resolution_of(pair)
    return PredictiveDensity(
        value=log_mean,
        standard_error=_error(influence),
        khat=khat(draws.log_weight.unsqueeze(1) + given.log_p, resolution=resolution),
        weights_khat=float(draws.khat) if weighted else 0.0,
        joint=JointDensity(
            float(log_joint),
            float(_error(of_joint)),
            float(khat(draws.log_weight.unsqueeze(1) + together, resolution=resolution)),
        ),
        mean_error=float(influence.mean(1).square().sum().sqrt()),
        num_samples=num_samples,
        weighted=weighted,
        local=WAYS[given.way],
        observed=fingerprints(pair, rows),
        names=names_of(data, len(rows)),
    )


def _known(fitted: Pair | Fitted, fitted_to: Any, weighted: bool) -> Source | None:
    """The rows of the fit; None where plain draws may do without."""
    try:
        return rows_of_fit(fitted, fitted_to, who=WHO)
    except ValueError:
        if weighted or fitted_to is not None:
            raise
        return None


def _draws(
    pair: Pair, known: Source | None, num_samples: int, how: Integration, *, weighted: bool, seed: int
) -> WeightedDraws:
    if num_samples < 2:
        raise ValueError(f"{WHO}: num_samples must be at least 2, got {num_samples}")
    if not weighted:
        values = predictive.shared_draws(pair, known, num_samples, seed=fold(seed, WHO), who=WHO)
        return WeightedDraws(values, torch.zeros(num_samples, dtype=torch.float64))
    if known is None:
        raise AssertionError("weighted draws have their rows")
    return shared_draws(pair, whole(known), num_samples, how, seed=seed, who=WHO).draws


def names_of(data: Any, count: int) -> tuple[Any, ...]:
    """What the rows are called: by the index of a data frame, else by their numbers."""
    index = header_of(data).index
    return tuple(range(count) if index is None else index)


def averaged(log_p: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the weighted mean of p, (N,), and by how much each draw moves it, (S, N), by the delta method.

    Args:
        log_p: (S, N), nats.
        weights: (S,) or (S, N), of sum 1.

    >>> value, moved = averaged(torch.tensor([[0.2], [0.4]]).log(), torch.tensor([0.5, 0.5]))
    >>> bool(torch.isclose(value.exp(), torch.tensor([0.3])).all()), moved.sum().abs() < 1e-6
    (True, tensor(True))
    """
    weights = weights if weights.dim() == log_p.dim() else weights.unsqueeze(1)
    log_mean = (log_p + weights.log()).logsumexp(0)
    relative = (log_p - log_mean).exp() - 1
    return log_mean, weights * torch.where(log_mean.isfinite(), relative, torch.nan)


def _error(influence: Tensor) -> Tensor:
    return believable(influence.square().sum(0).sqrt())
