"""The one equation of the house, per datum: log p(x) = ELBO + KL(q(z|x) || p(z|x))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, numbers_per_datum, resolution_of, slices
from ppl_vae.evidence.coincidence import Coincidence
from ppl_vae.evidence.evidence import Bound, Evidence
from ppl_vae.evidence.exact_sum import exact
from ppl_vae.evidence.importance import WIDTHS, parts_of, proposed
from ppl_vae.evidence.mixture import Weighed, stratified_error, weigh
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.evidence.weights import join
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
    return replace(found, evidence=found.evidence.pooled())


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
        scores = _scores(pair, chunk, num_samples, plan.draws, (seed, "decomposition", place.start))
        parts.append(_pieces(scores, f"ImportanceWeighted({num_samples})", resolution, bound))
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


@dataclass(frozen=True)
class _Scores:
    """K draws of these rows, (K, n) or (K,): log p(x|z), cost log q(z|x) - log p(z), and log h back to the guide."""

    likelihood: Tensor
    cost: Tensor
    log_h: Tensor
    counts: tuple[int, ...]
    coincide: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean under the guide."""
        if len(self.counts) == 1:
            return values.mean(0)
        return self._led_back(values).sum(0) / self.log_h.exp().sum(0)

    def standard_error(self, values: Tensor) -> Tensor:
        """Of such a mean."""
        centred = self._led_back(values - self.mean(values))
        return stratified_error(centred / self.log_h.exp().mean(0), self.counts)

    def _led_back(self, values: Tensor) -> Tensor:
        h = self.log_h.exp()
        return torch.where(h == 0, 0.0, h * values)


def _scores(pair: Pair, rows: Rows, num_samples: int, block: int, key: tuple[Any, ...]) -> _Scores:
    counts = parts_of(pair, num_samples, WIDTHS)
    found, coincidence = [], Coincidence(pair)
    for drawn in proposed(pair, rows, counts, WIDTHS, block, key):
        coincidence.see(drawn.draws)
        log_p, log_q = drawn.draws.log_p, drawn.draws.log_q.total
        _, log_h = weigh(log_p.total, drawn.log_q, counts)
        shape = drawn.log_q.shape[1:]
        scores = (log_p.likelihood, log_p.prior, log_q, log_h)
        found.append(tuple(score.expand(shape) for score in scores))
    likelihood, prior, log_q, log_h = (torch.cat(column) for column in zip(*found, strict=True))
    return _Scores(likelihood, log_q - prior, log_h, counts, coincidence.flags)


def _pieces(scores: _Scores, name: str, resolution: float, bound: Bound) -> Decomposition:
    reconstruction, kl = scores.mean(scores.likelihood), scores.mean(scores.cost)
    log_ratio = scores.likelihood - scores.cost
    weighed = Weighed(log_ratio + scores.log_h, scores.log_h, scores.counts, scores.coincide)
    evidence = weighed.ratio(name, resolution=resolution, bound=bound)
    elbo = reconstruction - kl
    # The gap is log(mean r) - mean(log r), r = p(x, z) / q(z|x); by the delta method its error is that of the mean of
    # r / mean(r) - log r.
    influence = (log_ratio - evidence.value).exp() - log_ratio
    spread = {"elbo": log_ratio, "reconstruction": scores.likelihood, "kl": scores.cost, "gap": influence}
    errors = {key: scores.standard_error(values) for key, values in spread.items()}
    errors["gap"] = errors["gap"].masked_fill(evidence.standard_error.isnan(), torch.nan)
    return Decomposition(elbo, reconstruction, kl, (evidence.value - elbo).clamp(min=0.0), evidence, errors)


def _join(parts: list[Decomposition]) -> Decomposition:
    pieces = {name: torch.cat([getattr(part, name) for part in parts]) for name in _PIECES}
    errors = {name: torch.cat([part.standard_error[name] for part in parts]) for name in _PIECES}
    return Decomposition(**pieces, evidence=join(part.evidence for part in parts), standard_error=errors)
