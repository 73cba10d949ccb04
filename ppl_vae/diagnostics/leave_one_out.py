r"""Leave-one-out cross-validation without fitting anew: log p(x_n | all other rows), by Pareto smoothed weights.

.. math:: \log p(x_n \mid x_{-n}) \approx \log \frac{\sum_s r_{sn} \, p(x_n \mid w_s)}{\sum_s r_{sn}}, \quad
    r_{sn} = \frac{p(w_s, x)}{q(w_s)} \cdot \frac{1}{p(x_n \mid w_s)}

The first factor leads the guide's draws to the posterior, the second one from there to the posterior without row n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ppl_vae.data.source import whole
from ppl_vae.evidence.chunks import MAX_ELEMENTS, resolution_of
from ppl_vae.evidence.conditional import WAYS, Integration, Local
from ppl_vae.evidence.evidence import error_in_words
from ppl_vae.evidence.importance import WIDTHS
from ppl_vae.evidence.observed import fingerprints
from ppl_vae.evidence.pooling import khat_limit
from ppl_vae.evidence.predictive_density import averaged, names_of
from ppl_vae.evidence.psis import psis_weights
from ppl_vae.evidence.shared_draws import require_observed, require_shared, rows_of_fit, shared_draws
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.evidence.weights import believable, khat
from ppl_vae.pair import pair_of
from ppl_vae.plots.khat_points import khat_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ppl_vae.pair import Fitted, Pair

__all__ = ["LeaveOneOut", "Pointwise", "loo", "pointwise_loo", "waic"]

WHO = "loo"
INSTEAD = (
    "weights of draws cannot take a row out of them again. Score rows that were held out of the fit: log_evidence(rows)"
)
FEW_NAMED = 5
MOST_SHORTFALL = 0.1
"""Nats of a row. Above it the first order, by which a shortfall is estimated, says little."""


@dataclass(frozen=True, eq=False)
class Pointwise:
    """What S weighted draws say of N rows, each left out in turn; nats.

    Attributes:
        elpd: (N,) log p(x_n | all other rows).
        standard_error: (N,) its Monte Carlo error; nan where few draws carry the sum.
        total_error: of the sum over rows, which are all of the same draws.
        khat: (N,) the shape of the upper tail of the weights without row n.
        log_mean: (N,) log p(x_n | all rows, x_n among them): what the fit says of the rows that it has seen.
        shortfall: (N,) by about how much ``elpd`` lies too low where p(x_n | w) is an estimate, and stands in a
            denominator: to first order, good to a factor of two where it is small.
    """

    elpd: Tensor
    standard_error: Tensor
    total_error: float
    khat: Tensor
    log_mean: Tensor
    shortfall: Tensor


def pointwise_loo(
    log_p: Tensor, log_weight: Tensor, *, variance: Tensor | None = None, resolution: float = 1e-9
) -> Pointwise:
    """Leave each row out in turn: a pure function of S draws.

    Args:
        log_p: (S, N), log p(x_n | w_s), nats.
        log_weight: (S,), log p(w, x) - log q(w), nats; zeros for draws of the posterior itself (MCMC).
        variance: (S, N), relative, of p(x_n | w_s), where it is an estimate that is not part of the weight.
        resolution: the relative error of the numbers.

    Aki Vehtari, Andrew Gelman, Jonah Gabry: "Practical Bayesian model evaluation using leave-one-out cross-validation
    and WAIC", 2017.
    Mans Magnusson, Michael Riis Andersen, Johan Jonasson, Aki Vehtari: "Bayesian leave-one-out cross-validation for
    large data", 2019 (draws of an approximation).

    >>> pointwise_loo(torch.tensor([[0.5], [0.25]]).log(), torch.zeros(2)).elpd.exp()  # the harmonic mean
    tensor([0.3333], dtype=torch.float64)
    """
    log_p = log_p.double()
    log_ratio = log_weight.double().unsqueeze(1) - log_p
    weights = psis_weights(log_ratio, resolution=resolution)
    elpd, influence = averaged(log_p, weights)
    log_mean, _ = averaged(log_p, psis_weights(log_weight, resolution=resolution))
    error = believable(influence.square().sum(0).sqrt())
    total_error = float(influence.sum(1).square().sum().sqrt())
    shortfall = torch.zeros_like(elpd) if variance is None else (weights * variance).sum(0)
    return Pointwise(elpd, error, total_error, khat(log_ratio, resolution=resolution), log_mean, shortfall)


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Log p(x_n | all other rows) of N rows of the fit, in nats.

    Attributes:
        pointwise: by row: value, Monte Carlo error, k-hat.
        num_samples: S, draws of the shared latents.
        weights_khat: k-hat of the weights that lead the guide's draws to the posterior of all rows.
        local: what became of a row's own latents: "none", "summed out", "drawn from the guide" or "from the model".
        held: how many numbers of the model were fitted to all rows and are held as they are.
        observed: (N,) a number that tells what is observed in each row from other data.
        names: of the rows.
    """

    pointwise: Pointwise
    num_samples: int
    weights_khat: float
    local: str
    held: int
    observed: Tensor
    names: tuple[Any, ...]

    @property
    def elpd(self) -> float:
        """The sum over the rows, nats: the expected log predictive density of as many new ones."""
        return float(self.pointwise.elpd.sum())

    @property
    def se(self) -> float:
        """The standard error of ``elpd`` by the choice of rows, sqrt(N var); nan for one row."""
        values = self.pointwise.elpd
        return math.sqrt(len(values) * float(values.var())) if len(values) > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """The Monte Carlo error of ``elpd``; nan as soon as that of a row is not known."""
        known = bool(self.pointwise.standard_error.isfinite().all())
        return self.pointwise.total_error if known else math.nan

    @property
    def p_loo(self) -> float:
        """The effective number of parameters: what the fit says of its rows, less ``elpd``.

        By the posterior's weights. (ArviZ takes the guide's draws as they are here, for weighted ones too.)
        """
        return float((self.pointwise.log_mean - self.pointwise.elpd).sum())

    @property
    def khat(self) -> Tensor:
        """Of each row, (N,)."""
        return self.pointwise.khat

    @property
    def shortfall(self) -> Tensor:
        """By about how much the value of a row lies too low, (N,) nats.

        0 but for guides that draw all latents at once, and have to have latents of single rows drawn from the model.
        """
        return self.pointwise.shortfall

    @property
    def khat_limit(self) -> float:
        """The greatest k-hat that so many draws allow."""
        return khat_limit(self.num_samples)

    @property
    def reliable(self) -> Tensor:
        """Is the value of a row to be believed, (N,) bool?"""
        found = (self.khat <= self.khat_limit) & self.pointwise.standard_error.isfinite()
        return found & (self.shortfall <= MOST_SHORTFALL)

    @property
    def warning(self) -> str:
        """Why the values are not to be believed; empty where they are."""
        rough = int((self.shortfall > MOST_SHORTFALL).sum())
        if rough:
            return (
                f"{rough} of {len(self.names)} rows are too low by more than {MOST_SHORTFALL} nats: the guide draws "
                "all latents at once, and p(x_n | w) is estimated too roughly; take a larger num_local"
            )
        worst = self.khat.nan_to_num(torch.inf).argsort(descending=True)
        bad = [self.names[int(n)] for n in worst if not self.reliable[n]]
        if not bad:
            return ""
        some = ", ".join(map(str, bad[:FEW_NAMED])) + (" and others" if len(bad) > FEW_NAMED else "")
        why = f"k-hat is above {self.khat_limit:.2f} for {len(bad)} of {len(self.names)} rows ({some})"
        if not self.weights_khat <= self.khat_limit:
            return (
                f"{why}, as it is for the guide's draws themselves ({self.weights_khat:.2f}); fit on until it has "
                "converged, or take a richer guide"
            )
        return f"{why}: the posterior without them is not where the draws are; fit without them, or hold rows out"

    def to_dataframe(self) -> pd.DataFrame:
        """One row a datum: elpd, standard_error, p_loo, khat."""
        import pandas as pd

        found = self.pointwise
        columns = {
            "elpd": found.elpd,
            "standard_error": found.standard_error,
            "p_loo": found.log_mean - found.elpd,
            "khat": found.khat,
        }
        frame = pd.DataFrame(
            {name: column.numpy() for name, column in columns.items()}, index=pd.Index(self.names, name="datum")
        )
        if self.warning:
            frame.attrs["warning"] = self.warning
        return frame

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """k-hat of every row, sorted, with the limit for so many draws."""
        return khat_points(self.khat, limit=self.khat_limit, ax=ax)

    def __repr__(self) -> str:
        monte_carlo = error_in_words(self.standard_error, ".2g")
        parts = [
            f"LeaveOneOut(elpd {self.elpd:.2f} ± {self.se:.2g} nats (of {len(self.names)} rows; Monte Carlo error "
            f"{monte_carlo})",
            f"p_loo {self.p_loo:.2f}",
            f"k-hat at most {float(self.khat.nan_to_num(torch.inf).max()):.2f}",
            f"{self.num_samples} weighted draws",
        ]
        if self.local != "none":
            parts.append(f"latents of single rows {self.local}")
        if float(self.shortfall.sum()) > 0.01:
            parts.append(f"too low by about {float(self.shortfall.sum()):.2g} nats; take more of them (num_local)")
        if self.held:
            parts.append(f"{self.held} parameters held as they were fitted to all rows")
        return "; ".join(parts) + (f"; NOT TO BE BELIEVED: {self.warning}" if self.warning else "") + ")"


def loo(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    num_samples: int = 4000,
    widths: Sequence[float] = WIDTHS,
    local: Local = "auto",
    num_local: int = 32,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> LeaveOneOut:
    """Log p(x_n | all other rows) of each row of a fit, from one set of draws: PSIS-LOO with the guide's correction.

    Draws of a guide are not draws of the posterior, and leave-one-out on them as they are (``az.loo``) takes the
    guide's narrowness for certainty: it is silently optimistic. Here log p - log q stands in the weights. A row's own
    latents are integrated out first, exactly or by ``num_local`` draws for each value of the shared ones: weights of
    p(x_n | z_n) mean nothing, since without its row a z_n goes back to the prior.

    Held parameters (θ, fitted to all rows) are not fitted anew: with many of them elpd is too high.

    S N numbers are held, 8 bytes each.

    Args:
        pair: a Pair, or a Fit.
        data: the N rows of the fit; by default those that it has at hand.
        num_samples: S, draws of the shared latents.
        widths: of the guide's spread. Half of the draws are from the guide made 1.5 times as wide; (1.0,) takes the
            guide alone, as ``az.loo_approximate_posterior`` does.
        local, num_local: who proposes a row's own latents, and how many; see ``log_predictive``.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle.

    Raises:
        ValueError: no latents are shared (parameters that are points have no draws): held-out log p is named; rows of
            the fit are not at hand, or lack what the model observes; the guide is a point mass; a plate draws a
            subsample; a shared latent is summed out.
    """
    fitted, pair = pair, pair_of(pair)
    source = rows_of_fit(fitted, data, who=WHO, argument="data")
    pair.initialize(source)
    require_shared(pair, WHO, INSTEAD)
    pair.sites.require_whole_plates(WHO)
    require_observed(pair, source, WHO)
    how, rows = Integration(local, num_local, widths, max_elements), whole(source)
    found = shared_draws(pair, rows, num_samples, how, seed=seed, who=WHO)
    say_of_weights(pair, WHO)
    # An estimate of p(x_n | w) that is part of the weight cancels there, and what is left is unbiased.
    variance = found.given.variance if found.at_once else None
    made = pointwise_loo(found.given.log_p, found.draws.log_weight, variance=variance, resolution=resolution_of(pair))
    return LeaveOneOut(
        made,
        num_samples,
        float(found.draws.khat),
        WAYS[found.given.way],
        sum(leaf.numel() for leaf in pair.parameters.of("theta", "shared").values()),
        fingerprints(pair, rows),
        names_of(data, len(rows)),
    )


def waic(*_: Any, **__: Any) -> NoReturn:
    """Refused: the widely applicable information criterion has no sign of its own failure, and ``loo`` has.

    WAIC takes the variance of log p(x_n | w) over draws of the posterior for the number of parameters. Over draws of a
    guide that is too narrow it is too small, and with it the penalty; single rows that move the posterior make the
    sum wrong without a k-hat that says so; and weighted draws have no agreed form of it.

    Raises:
        NotImplementedError: always; it names ``loo``.

    Aki Vehtari, Andrew Gelman, Jonah Gabry: "Practical Bayesian model evaluation using leave-one-out cross-validation
    and WAIC", 2017.
    """
    raise NotImplementedError(
        "waic: refused. It estimates what loo estimates, by a variance over draws that a narrow guide makes too small, "
        "and has no k-hat to say where it fails; use loo(fit), or log_predictive(fit, rows) for rows held out"
    )
