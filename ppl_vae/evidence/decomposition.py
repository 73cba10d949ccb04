"""The one equation of the house, per datum: log p(x) = ELBO + KL(q(z|x) || p(z|x))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, numbers_per_datum, resolution_of, slices
from ppl_vae.evidence.evidence import Bound, Evidence
from ppl_vae.evidence.exact_sum import exact
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.evidence.weights import join, log_mean_exp, summarize
from ppl_vae.pair import pair_of
from ppl_vae.pair.table import few_codes, tabulate

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Fitted, Pair

__all__ = ["Decomposition", "decomposition"]

_PIECES = ("elbo", "reconstruction", "kl", "gap")


@dataclass(frozen=True, eq=False)
class Decomposition:
    r"""The pieces of log p(x), each (N,) or () in nats, float64, all from the same draws of the guide, or exact.

    .. math::
        \log p(x) = \underbrace{E_q[\log p(x|z)]}_{reconstruction}
            - \underbrace{E_q[\log q(z|x) - \log p(z)]}_{kl} + \underbrace{KL(q(z|x) \| p(z|x))}_{gap}

    Attributes:
        elbo: reconstruction - kl, exactly so.
        reconstruction: the mean log likelihood of the datum under draws of the guide.
        kl: KL(q(z|x) || p(z)), what the code costs.
        gap: evidence - elbo: what the guide misses of the posterior. Never negative (same draws, Jensen), and
            too small where k-hat is above 0.7.
        evidence: the importance-weighted evidence from these draws, or the exact one.
        standard_error: Monte Carlo standard errors of the four pieces by name, same shapes.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    gap: Tensor
    evidence: Evidence
    standard_error: dict[str, Tensor]

    def mean(self) -> dict[str, float]:
        """The pieces averaged over the data, nats per datum; they add up as the equation says."""
        pieces = {name: float(getattr(self, name).mean()) for name in _PIECES}
        return {**pieces, "evidence": float(self.evidence.value.mean())}

    def to_dataframe(self) -> pd.DataFrame:
        """One row a datum: the pieces and the columns of the evidence."""
        frame = self.evidence.to_dataframe().rename(columns={"value": "evidence"})
        for place, name in enumerate(_PIECES):
            frame.insert(place, name, getattr(self, name).reshape(-1).numpy())
        return frame

    def __repr__(self) -> str:
        means = self.mean()
        words = ", ".join(f"{name} {means[name]:.3f}" for name in (*_PIECES, "evidence"))
        return f"Decomposition({words}; nats per datum)"


def decomposition(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
    progress: Callable[[int], None] | None = None,
) -> Decomposition:
    """Take log p(x) apart, per datum, by Monte Carlo with draws of the guide.

    Exact, without draws, for discrete latents of at most 4096 joint values. All pieces are of the model without weights
    (``poutine.scale``).

    Args:
        pair: a Pair, or a Fit.
        data: N rows, as the pair takes them.
        num_samples: K, draws of the guide a datum, where it is not exact.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.
        progress: called with the number of rows that are done.

    Returns:
        the Decomposition.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    pair.sites.require_density("decomposition")
    pair.sites.require_whole_plates("decomposition")
    found = _decomposed(pair, rows, num_samples, seed, max_elements, progress or (lambda done: None))
    say_of_weights(pair, "decomposition")
    return found


def _decomposed(
    pair: Pair, rows: Source, num_samples: int, seed: int, max_elements: int, told: Callable[[int], None]
) -> Decomposition:
    if (count := few_codes(pair)) is not None:
        some = max(1, max_elements // (count * numbers_per_datum(pair, rows)))
        exact_parts = []
        for place in slices(len(rows), some):
            exact_parts.append(_exact(pair, rows.take(place)))
            told(place.stop)
        return _join(exact_parts)
    plan, resolution = Plan.of(pair, rows, num_samples, max_elements), resolution_of(pair)
    bound: Bound = "exact" if pair.is_exact else "lower"
    parts = []
    for place, chunk in plan.row_chunks(rows):
        likelihood, prior, log_q = _scores(
            pair, chunk, num_samples, plan.draws, fold(seed, "decomposition", place.start)
        )
        parts.append(_pieces(likelihood, prior, log_q, f"ImportanceWeighted({num_samples})", resolution, bound))
        told(place.stop)
    return parts[0] if plan.rows is None else _join(parts)


def _exact(pair: Pair, rows: Rows) -> Decomposition:
    """The pieces by a sum over all values of the latents."""
    with pair.evaluating(0):
        table = tabulate(pair, rows.batch())
    log_p, log_q, log_prior = table.log_p.double(), table.log_q.double(), table.log_prior.double()
    q = log_q.exp()
    reconstruction, kl = table.mean(q, log_p - log_prior).cpu(), table.mean(q, log_q - log_prior).cpu()
    evidence, elbo = exact(table), reconstruction - kl
    gap = (evidence.value - elbo).clamp(min=0.0)
    return Decomposition(elbo, reconstruction, kl, gap, evidence, dict.fromkeys(_PIECES, torch.zeros_like(elbo)))


def _scores(pair: Pair, rows: Rows, num_samples: int, block: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log p(x|z), log p(z) and log q(z|x) of all draws of these rows, (K, n) or (K,)."""
    found = []
    for place in slices(num_samples, block):
        count = place.stop - place.start
        draws = pair.draw(rows, count, seed=fold(seed, place.start))
        shape = (count, *draws.log_weight.shape[1:])
        scores = (draws.log_p.likelihood, draws.log_p.prior, draws.log_q.total)
        found.append(tuple(score.expand(shape) for score in scores))
    likelihood, prior, log_q = (torch.cat(column) for column in zip(*found, strict=True))
    return likelihood, prior, log_q


def _pieces(
    likelihood: Tensor, prior: Tensor, log_q: Tensor, name: str, resolution: float, bound: Bound
) -> Decomposition:
    cost = log_q - prior
    log_weights = likelihood - cost
    reconstruction, kl = likelihood.mean(0), cost.mean(0)
    evidence = summarize(log_weights, name, bound=bound, resolution=resolution)
    elbo = reconstruction - kl
    # The gap is log(mean w) - mean(log w); by the delta method its error is that of the mean of w / mean(w) -
    # log w.
    influence = (log_weights - log_mean_exp(log_weights)).exp() - log_weights
    spread = {"elbo": log_weights, "reconstruction": likelihood, "kl": cost, "gap": influence}
    errors = {key: _standard_error(values) for key, values in spread.items()}
    return Decomposition(elbo, reconstruction, kl, (evidence.value - elbo).clamp(min=0.0), evidence, errors)


def _standard_error(values: Tensor) -> Tensor:
    if len(values) < 2:
        return torch.full_like(values[0], torch.nan)
    return values.std(0) / len(values) ** 0.5


def _join(parts: list[Decomposition]) -> Decomposition:
    pieces = {name: torch.cat([getattr(part, name) for part in parts]) for name in _PIECES}
    errors = {name: torch.cat([part.standard_error[name] for part in parts]) for name in _PIECES}
    return Decomposition(**pieces, evidence=join(part.evidence for part in parts), standard_error=errors)
