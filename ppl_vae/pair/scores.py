"""The log densities of the sites of one run, worked out when they are asked for, in nats."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self, TypeVar

from pyro.distributions.distribution import Distribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.enumeration import Expectation, dims_in
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.layout import Layout, inflation_of, is_weight, weight_of
from ppl_vae.pair.outside import inside


class SiteScore:
    """The log density of one site of a run, worked out when it is first asked for.

    In a run with enumerated sites it is the expectation over these, and exact.

    Attributes:
        local: does it stand inside the data plate?
        observed: is its value given?
        weight: what ``poutine.scale`` put on the site: a factor that belongs to an objective, and to no density. A
            number, or a tensor in Pyro's shape.
        inflation: how often an entry counts for others of a plate, not the data's, that draws a subsample. It stands
            in every term: the log density is then an unbiased estimate.
        summed: is it a latent of the model alone, summed out of p?
        absorbed: is its density part of such a sum, and counted there?
    """

    summed = absorbed = False
    trace: Trace | None = None  # the run that the site is of, for those who tell of an error

    def __init__(
        self,
        name: str,
        site: Mapping[str, Any],
        layout: Layout,
        particles: bool,
        expectation: Expectation | None = None,
    ) -> None:
        self.name, self.site = name, site
        self.local: bool = layout.is_local(site)
        self.observed: bool = site["is_observed"]
        self.weight: Any = weight_of(site, layout)
        self.inflation = inflation_of(site, layout)
        self._layout, self._particles, self._expectation = layout, particles, expectation

    @cached_property
    def bare(self) -> Tensor:
        """The masked log density in the shape that Pyro gives it, with every dimension of enumeration, in nats."""
        site = self.site
        with inside({self.name: site}, self.trace):
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        return self.masked(log_prob)

    @cached_property
    def raw(self) -> Tensor:
        """The masked log density in the shape that Pyro gives it without enumeration, in nats."""
        return self.expected(self.bare)

    @cached_property
    def log_prob(self) -> Tensor:
        """The masked log density, unweighted: (S, B) inside the data plate, (S,) outside, in nats."""
        return self.reduce(self.raw)

    def expected(self, term: Tensor) -> Tensor:
        """The expectation of a term of this site over the enumerated sites of the guide."""
        return term if self._expectation is None else self._expectation(term, self.site)

    def reduce(self, term: Tensor) -> Tensor:
        """A term of this site in Pyro's shape, its expectation taken, summed to (S, B) or (S,)."""
        return self._layout.reduce(self.expected(term), self.site, self._particles)

    @cached_property
    def weighted_log_prob(self) -> Tensor:
        """The masked log density times the weight, (S, B) or (S,): what an objective counts, and no density."""
        return self.weigh(self.bare) if self._weighs_entries else self.log_prob * self.weight

    def weigh(self, bare: Tensor) -> Tensor:
        """A term of this site in Pyro's shape times the weight, entry by entry, summed to (S, B) or (S,)."""
        return self.reduce(bare * self.weight) if self._weighs_entries else self.reduce(bare) * self.weight

    @property
    def _weighs_entries(self) -> bool:
        return isinstance(self.weight, Tensor) and self.weight.dim() > 0

    def masked(self, term: Any) -> Any:
        """A term of this site in Pyro's shape, 0 where the site is masked."""
        return scale_and_mask(term, self.inflation, self.site["mask"])

    @property
    def weighted(self) -> bool:
        """Has the model's author put a weight on this site?"""
        return is_weight(self.weight)

    def replaced(self, bare: Tensor, *, absorbed: bool, summed: bool) -> Self:
        """The same site with another log density in Pyro's shape."""
        twin = copy.copy(self)
        for name in ("bare", "raw", "log_prob", "weighted_log_prob"):
            twin.__dict__.pop(name, None)
        twin.__dict__["bare"], twin.absorbed, twin.summed = bare, absorbed, summed
        return twin


class GuideScore(SiteScore):
    """The log density of a site of the guide, with the parts that gradients need."""

    @property
    def enumerated(self) -> bool:
        """Is the site not drawn, but summed over?"""
        return self._expectation is not None and self.name in self._expectation.dims

    @property
    def pathwise(self) -> bool:
        """Is log q differentiated as it stands: is the site enumerated, or reparametrized through and through?"""
        if self.enumerated:
            return True
        fn = self.site["fn"]
        return bool(getattr(fn, "has_rsample", False)) and type(fn).score_parts is Distribution.score_parts

    @cached_property
    def _parts(self) -> Any:
        site = self.site
        with inside({self.name: site}, self.trace):
            return site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])

    @cached_property
    def bare(self) -> Tensor:
        """The masked log density in the shape that Pyro gives it, with every dimension of enumeration, in nats."""
        log_prob: Tensor = self.masked(self._parts.log_prob)
        return log_prob

    @cached_property
    def entropy(self) -> Any:
        """What is differentiated in -log q, like ``log_prob``; 0 where the score function stands for it."""
        if self._is_all_path:
            return self.log_prob
        entropy = self._parts.entropy_term
        return 0 if is_identically_zero(entropy) else self.reduce(self.masked(entropy))

    @property
    def weighted_entropy(self) -> Any:
        """The same times the weight, like ``weighted_log_prob``."""
        if self._is_all_path:
            return self.weighted_log_prob
        entropy = self._parts.entropy_term
        return 0 if is_identically_zero(entropy) else self.weigh(self.masked(entropy))

    @property
    def _is_all_path(self) -> bool:
        return self.enumerated or self._parts.entropy_term is self._parts.log_prob

    @property
    def score(self) -> Any:
        """The score function term in Pyro's shape; 0 for a draw with a reparametrization, and a site summed over.

        Raises:
            ValueError: the site is drawn without a reparametrization given an enumerated one.
        """
        if self.pathwise:
            return 0
        score = self._parts.score_function
        if self._expectation is not None and isinstance(score, Tensor) and dims_in(score, self._expectation.dims):
            raise ValueError(
                f"enumeration: the guide draws {self.name!r}, which has no reparametrization, given an enumerated "
                "site; enumerate both or neither"
            )
        return score


Score = TypeVar("Score", bound=SiteScore)


def scores_of(
    score: Callable[..., Score], trace: Trace, layout: Layout, num_particles: int | None, expectation: Any = None
) -> dict[str, Score]:
    """The scores of every sample site of a trace that has a density, in its order."""
    particles = num_particles is not None
    sites = {name: site for name, site in sample_sites(trace) if has_density(site)}
    scores = {name: score(name, site, layout, particles, expectation) for name, site in sites.items()}
    for made in scores.values():
        made.trace = trace
    return scores
