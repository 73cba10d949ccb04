"""The table of all values of a pair's discrete latents: log p(x, c) and log q(c | x) of each, and Bayes' rule on it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.distributions import MAX_CODES
from ppl_vae.pair.enumeration import plates_of
from ppl_vae.pair.fitted import pair_of
from ppl_vae.pair.scoring import weighted_sites

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppl_vae.pair.execution import Execution
    from ppl_vae.pair.fitted import Fitted
    from ppl_vae.pair.pair import Pair
    from ppl_vae.pair.scores import SiteScore


FEW_CODES = 4096
"""Up to so many joint values of discrete latents, evaluations are exact sums over all of them."""


@dataclass(frozen=True)
class Table:
    """All joint values of the discrete latents of each datum, C of them, in one order.

    Attributes:
        values: by site, (C, *event).
        log_p: log p(x, c), (C, B), or (C, B, *plates) where the latents stand in further plates of their own and all
            that depends on them does too; nats.
        log_q: log q(c | x), likewise.
        log_prior: log p(c), the part of log p(x, c) that stands at latent sites, likewise.
    """

    values: dict[str, Tensor]
    log_p: Tensor
    log_q: Tensor
    log_prior: Tensor

    @property
    def log_evidence(self) -> Tensor:
        """The exact log p(x), (B,) nats."""
        return _whole(self.log_p.logsumexp(0))

    @property
    def log_posterior(self) -> Tensor:
        """The exact log p(c | x), in the shape of ``log_p``, nats."""
        return self.log_p.log_softmax(0)

    @property
    def elbo(self) -> Tensor:
        """The exact ELBO of the guide, (B,) nats."""
        return self.mean(self.log_q.exp(), self.log_p - self.log_q)

    def mean(self, probs: Tensor, term: Tensor) -> Tensor:
        """The mean of a term under probabilities, both in the shape of ``log_p``: (B,)."""
        return _whole((probs * torch.where(probs > 0, term, 0.0)).sum(0))


def _whole(term: Tensor) -> Tensor:
    return term.flatten(1).sum(1) if term.dim() > 1 else term


def refusal(pair: Pair) -> str:
    """Why a pair has no table; empty if it has one."""
    unfit = [name for name, site in pair.latents.items() if not (site.is_discrete and site.is_local)]
    if unfit:
        return f"{', '.join(map(repr, unfit))} is not a discrete latent of each datum"
    if not pair.latents:
        return "the pair has no latents that the guide draws"
    sites = [*pair.latents.items(), *pair.sites.guide.items()]
    masked = sorted({name for name, site in sites if site.is_masked})
    if masked:  # a density that is masked does not sum to 1
        return f"{', '.join(map(repr, masked))} bears a mask, and the values of a masked row have no probabilities"
    strange = sorted(set(pair.sites.guide) - set(pair.latents))
    if strange:
        return f"the guide draws {', '.join(map(repr, strange))}, which the model has not"
    if len(pair.latents) > 1 and any(site.plate_dims for site in pair.latents.values()):
        return "several latents stand in plates of their own"
    return ""


def num_codes(pair: Pair) -> int | None:
    """C, the number of joint values of the latents; None for a pair that has no table."""
    if refusal(pair):
        return None
    values = [site.num_values for site in pair.latents.values()]
    return prod(n for n in values if n is not None) if None not in values else None


def few_codes(pair: Pair) -> int | None:
    """How many joint values the latents have, if they are so few that a sum over all is made unasked; else None."""
    count = num_codes(pair)
    return count if count is not None and count <= FEW_CODES else None


def tabulate(pair: Pair | Fitted, batch: Batch) -> Table:
    """The table of a batch, with gradients; call it inside ``pair.scope()``.

    Memory is that of one run of the model on C B rows.

    Raises:
        ValueError: a latent is continuous, or shared by all data, or the joint values are more than ``MAX_CODES``.
    """
    pair = pair_of(pair)
    if why := refusal(pair):
        raise ValueError(f"enumeration: all latents must be discrete and of each datum's own, but {why}")
    run = pair.run(batch, enumerated=pair.latents, in_pieces=False)
    sites = [run.guide_trace.nodes[name] for name in pair.latents]
    shape, model = _Shape.of(run, sites), run.score_model()
    guide = run.score_guide()
    pair.runner.weighted = weighted_sites(model, guide)
    log_p = shape.table(model)
    log_prior = shape.table({name: score for name, score in model.items() if not score.observed})
    return Table(
        {name: shape.values(run, name, site) for name, site in zip(pair.latents, sites, strict=True)},
        log_p,
        shape.table(guide),
        log_prior.expand_as(log_p),
    )


@dataclass(frozen=True)
class _Shape:
    """Which dimensions of a term in Pyro's shape a table keeps."""

    codes: tuple[int, ...]  # dimensions of enumeration, leftmost first
    sizes: tuple[int, ...]
    kept: tuple[int, ...]  # the data plate, and the latents' own further plates

    @classmethod
    def of(cls, run: Execution, sites: list[Any]) -> _Shape:
        assert run.expectation is not None and run.layout.axis is not None
        names = sorted(run.expectation.dims, key=lambda name: run.expectation.dims[name])  # type: ignore[union-attr]
        sizes = tuple(run.expectation.size(name) for name in names)
        if torch.Size(sizes).numel() > MAX_CODES:
            raise ValueError(
                f"enumeration: {' x '.join(map(str, sizes))} = {torch.Size(sizes).numel():.3g} joint values, and at "
                f"most {MAX_CODES} can be summed over"
            )
        data = run.layout.axis
        frames = [f for f in sites[0]["cond_indep_stack"] if f.vectorized and f.name != data.name]
        kept = (data.dim, *sorted(f.dim for f in frames))
        _require_inside(run, frozenset(f.name for f in frames) | {data.name})
        return cls(tuple(run.expectation.dims[name] for name in names), sizes, kept)

    def table(self, scores: Mapping[str, SiteScore]) -> Tensor:
        """The sum of all terms, (C, B, *plates)."""
        terms = [self._kept(score.bare) for score in scores.values()]
        total: Tensor = sum(terms[1:], terms[0])
        return total.expand(*self.sizes, *total.shape[len(self.codes) :]).flatten(0, len(self.codes) - 1)

    def _kept(self, term: Tensor) -> Tensor:
        """A term with exactly the dimensions (codes..., data, plates...); others are summed away."""
        rank = max(term.dim(), -self.codes[0])
        term = term.reshape((1,) * (rank - term.dim()) + term.shape)
        order = [rank + dim for dim in (*self.codes, *self.kept)]
        others = [i for i in range(rank) if i not in order]
        return term.permute(*order, *others).flatten(len(order)).sum(-1) if others else term.permute(*order)

    def values(self, run: Execution, name: str, site: Any) -> Tensor:
        assert run.expectation is not None
        event, place = site["fn"].event_shape, self.codes.index(run.expectation.dims[name])
        lined = site["value"].reshape(*(1,) * place, -1, *(1,) * (len(self.codes) - place - 1), *event)
        return lined.expand(*self.sizes, *event).reshape(-1, *event)


def _require_inside(run: Execution, plates: frozenset[str]) -> None:
    for name, score in run.score_model().items():
        if not plates <= plates_of(score.site):
            raise ValueError(
                f"enumeration: the latents stand in the plates {sorted(plates)}, but {name!r} in "
                f"{sorted(plates_of(score.site))}; their joint values in the further plates are too many"
            )
