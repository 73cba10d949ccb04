"""The draws of a batch and what each weighs: log p(x, z_k) - log q(z_k | x), per datum, read off the runs of a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro.distributions.util import is_identically_zero
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.objective import Objective, Terms, num_data_of
from ppl_vae.objectives.training_only import auxiliary_term
from ppl_vae.pair import Execution, GlobalLatentError, GuideScore, Pair, SiteScore


@dataclass(frozen=True)
class WeightedDraws:
    """S draws of z for each of B data. All in nats; (S, B), or (S,) when latents outside the data plate tie the data.

    Attributes:
        runs: the runs that made them.
        guides: the scores of the guide's sites, by run.
        log_p, log_q: log p(x, z) and log q(z | x), as they are: neither weights nor N/B are in them.
        entropy: what of log q is differentiated along the path of z: 0 where a score function stands for it.
        score: log q of the draws that have only a score function; None if every draw is reparametrized.
        reconstruction: log p of what is observed.
        auxiliary: what only training adds, or None.
        num_data: N.
    """

    runs: list[Execution]
    guides: Sequence[Mapping[str, GuideScore]]
    log_p: Tensor
    log_q: Tensor
    entropy: Tensor
    score: Tensor | None
    reconstruction: Tensor
    auxiliary: Tensor | None
    num_data: int

    @property
    def log_w(self) -> Tensor:
        """The log weights."""
        return self.log_p - self.log_q

    @property
    def path(self) -> Tensor:
        """What is differentiated along the path of reparametrized draws, and in θ."""
        return self.log_p - self.entropy

    def per_datum(self, term: Tensor) -> Tensor:
        """A term (..., B) to its mean over draws and data, one of all data to its share of one datum: ()."""
        return term.mean() if self.log_p.dim() == 2 else term.mean() / self.num_data

    def surrogate(self, signal: Tensor) -> Tensor:
        """The score function estimator with this signal (S, B), and the path of what is reparametrized: ()."""
        path = self.path
        return self.per_datum(path if self.score is None else path + signal.detach() * self.score)

    def terms(self, value: Tensor, surrogates: Mapping[str, Tensor]) -> Terms:
        """What an objective returns: its value, (B,) or (), its surrogates by group, and the usual report."""
        elbo, local = self.log_w.mean(0), self.log_p.dim() == 2
        extra = None if self.auxiliary is None else self.auxiliary.mean()
        if extra is not None:
            # Groups that share a tensor go on sharing one: a single backward serves them.
            sums = {id(s): s + extra for group, s in surrogates.items() if group != "psi"}
            surrogates = {group: sums.get(id(s), s) for group, s in surrogates.items()}
        return Terms(
            value=value if local else value.new_zeros(1),
            global_value=value.new_zeros(()) if local else value,
            num_data=self.num_data,
            surrogates=surrogates,
            elbo=self.per_datum(elbo),
            reconstruction=self.per_datum(self.reconstruction),
            kl=self.per_datum(self.reconstruction - elbo),
            auxiliary=0.0 if extra is None else extra.detach(),
        )


def weighted_draws(objective: Objective, pair: Pair, batch: Batch) -> WeightedDraws:
    """Draw, and weigh.

    Raises:
        ValueError: for a site that ``poutine.scale`` weighs, and for a latent that the guide does not draw.
    """
    return read(objective, pair, batch, pair.runs(batch, objective.num_particles))


def read(objective: Objective, pair: Pair, batch: Batch, runs: list[Execution]) -> WeightedDraws:
    """The weights of runs that have been made."""
    scores = [(run.score_model(), run.score_guide()) for run in runs]
    for model, guide in scores:
        _check(type(objective).__name__, model, guide)
    models, guides = zip(*scores, strict=True)
    has_score = any(not is_identically_zero(q.score) for q in guides[0].values())
    return WeightedDraws(
        runs=runs,
        guides=guides,
        log_p=torch.cat([log_density(model, pair) for model in models]),
        log_q=(log_q := torch.cat([log_density(guide, pair) for guide in guides])),
        entropy=torch.cat([_entropy(guide, pair) for guide in guides]) if has_score else log_q,
        score=torch.cat([_score(guide, pair) for guide in guides]) if has_score else None,
        reconstruction=torch.cat([log_density(_observed(model), pair) for model in models]),
        auxiliary=_auxiliary(runs),
        num_data=num_data_of(runs[0], batch),
    )


def require_weights_per_datum(objective: Objective, pair: Pair) -> None:
    """Raise :class:`GlobalLatentError` where draws have no weight for each datum by itself."""
    pair.sites.require_local(type(objective).__name__)
    if pair.layout.axis is None:
        raise GlobalLatentError(
            f"{type(objective).__name__}: draws are weighed by datum, so a plate of the data (axis 0) is required, and "
            "the pair has none; ELBO() does without"
        )


def log_density(scores: Mapping[str, SiteScore], pair: Pair) -> Tensor:
    """The sum of log densities over sites: (S, B), or (S,) if a latent stands outside the data plate."""
    return _sum([(s.log_prob, s.local) for s in scores.values()], pair)


def _entropy(guide: Mapping[str, GuideScore], pair: Pair) -> Tensor:
    terms = [(q.entropy, q.local) for q in guide.values() if isinstance(q.entropy, Tensor)]
    return _sum(terms, pair) if terms else torch.zeros_like(log_density(guide, pair))


def _score(guide: Mapping[str, GuideScore], pair: Pair) -> Tensor:
    """Log q of what is drawn without a path; not masked, for a masked draw is made all the same."""
    return _sum([(q.reduce(q.score), q.local) for q in guide.values() if not is_identically_zero(q.score)], pair)


def _observed(model: Mapping[str, SiteScore]) -> dict[str, SiteScore]:
    return {name: score for name, score in model.items() if score.observed}


def _sum(terms: Iterable[tuple[Tensor, bool]], pair: Pair) -> Tensor:
    """The sum of terms inside the data plate (S, B) and of terms outside it (S,)."""
    terms = list(terms)
    local, shared = ([term for term, is_local in terms if is_local is side] for side in (True, False))
    total = sum(local[1:], local[0]) if local else None
    if not pair.has_global_latents and not shared and total is not None:
        return total
    joint = total.sum(1) if total is not None else 0.0
    return sum(shared, joint)  # type: ignore[return-value]


def _auxiliary(runs: list[Execution]) -> Tensor | None:
    terms = [term for run in runs if (term := auxiliary_term(run)) is not None]
    return torch.cat(terms) if terms else None


def _check(who: str, model: Mapping[str, SiteScore], guide: Mapping[str, GuideScore]) -> None:
    for score in (*model.values(), *guide.values()):
        if score.weighted:
            raise ValueError(
                f"{who}: the site {score.name!r} is weighted with poutine.scale, and a weight inside a logsumexp or a "
                "learning signal makes no bound; take the weight away, or use ELBO()"
            )
        if score.inflation != 1.0:
            raise ValueError(
                f"{who}: the site {score.name!r} stands in a plate that draws a subsample, so its density is an "
                "estimate, and a logarithm of estimates, or a learning signal made of one, gives no bound; use ELBO()"
            )
    missing = [n for n, p in model.items() if not p.observed and not p.summed and n not in guide]
    if missing:
        raise ValueError(f"{who}: the guide must sample every latent site of the model, but it has none of {missing}")
    if not guide:
        raise ValueError(f"{who}: the guide draws nothing, so there is nothing to weigh; use ELBO()")
