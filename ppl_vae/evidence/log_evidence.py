"""log p(x) of a pair, by an estimator of choice."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.evidence.estimator import Estimator
from ppl_vae.evidence.exact_sum import Enumeration
from ppl_vae.evidence.importance import ImportanceWeighted
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.pair import pair_of
from ppl_vae.pair.table import few_codes

if TYPE_CHECKING:
    from ppl_vae.evidence.evidence import Evidence
    from ppl_vae.pair import Fitted, Pair

__all__ = ["log_evidence"]

DEFAULT = ImportanceWeighted(1000)


def log_evidence(
    pair: Pair | Fitted,
    data: Any = None,
    estimator: Estimator | None = None,
    *,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Evidence:
    """Estimate log p(x) of each datum, with an error bar and a diagnosis of it.

    Latents that all data share are integrated out under their prior: of test rows this is log p(rows) as if the fit had
    seen none, one number for all. What the fit says of them, log p(test | rows of the fit), is
    :func:`~ppl_vae.evidence.log_predictive`; of a pair without such latents the two are one.

    It is that of the model without weights (``poutine.scale``); where there are some, a warning says so, once a pair.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them; None for a pair without data.
        estimator: ``ImportanceWeighted(K)``, ``Laplace(K)``, ``Annealed(T)``, ``Sequential(T, S)``, ``Bridge(K)``,
            ``NaiveMonteCarlo(K)`` or ``Enumeration()``. The default is exact where it can be: ``Enumeration()`` for a
            pair of discrete latents with at most 4096 joint values, else ``ImportanceWeighted(1000)``.
        seed: of the draws.
        max_elements: how many numbers (latents and data of all draws) one run of the pair may handle; bounds
            memory. The draws depend on it, their distribution does not.

    Returns:
        an Evidence: value, standard_error (nats), ess, khat, each (N,), or () when latents are shared by all
            data.

    Of a pair with a ``Flat`` prior this is log of the integral of p(x | z), which is no probability: a warning says so.

    Raises:
        ValueError: a plate besides the data's draws a subsample.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    flat = pair.initialize(rows).sites.improper
    if flat and pair.observed:  # without data it is an energy, and its log Z is wanted
        warnings.warn(
            f"log_evidence: the prior of {', '.join(map(repr, flat))} is improper (Flat), so the integral of p(x | z) "
            "is no probability of the data: compare it with nothing but fits under the very same flat priors",
            stacklevel=2,
        )
    if estimator is None:
        estimator = Enumeration() if few_codes(pair) is not None else DEFAULT
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise TypeError(f"log_evidence: an estimator such as ImportanceWeighted(1000) is required, got {estimator!r}")
    pair.sites.require_whole_plates("log_evidence")
    found = estimator.estimate(pair, rows, seed, max_elements=max_elements).pooled()
    say_of_weights(pair, "log_evidence")
    return found
