"""Latents of the model alone, summed out of its density: log p(x, z) = log sum over c of p(x, z, c)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.distributions import MAX_CODES
from ppl_vae.pair.enumeration import dims_in, is_masked, plates_of

if TYPE_CHECKING:
    from ppl_vae.pair.scores import SiteScore


def sum_out(scores: Mapping[str, SiteScore], summed: Mapping[str, int]) -> dict[str, SiteScore]:
    """The scores with each set of terms that hang together through summed sites put into one.

    The sum stands at the set's observed site, if it has one, else at the summed site itself; the others are absorbed:
    their density is 0, since it is counted there.

    Raises:
        ValueError: the terms of a set do not stand in the same plates, a term bears a weight, or a summed site a mask.
    """
    result = dict(scores)
    for names, latents in components(scores, summed):
        carrier = next((name for name in names if scores[name].observed), latents[0])
        total = log_sum(scores, names, latents, summed)
        for name in names:
            bare = total if name == carrier else torch.zeros_like(total)
            result[name] = scores[name].replaced(bare, absorbed=name != carrier, summed=name in latents)
    return result


def components(scores: Mapping[str, SiteScore], summed: Mapping[str, int]) -> Iterator[tuple[list[str], list[str]]]:
    """The sets of sites that hang together through summed sites, with the summed sites of each."""
    open_ = [(name, dims_in(score.bare, summed)) for name, score in scores.items()]
    open_ = [(name, latents) for name, latents in open_ if latents]
    while open_:
        latents = open_[0][1]
        while more := set().union(*(ls for _, ls in open_ if ls & latents)) - latents:
            latents = latents | more
        yield [name for name, ls in open_ if ls & latents], sorted(latents, key=list(summed).index)
        open_ = [(name, ls) for name, ls in open_ if not ls & latents]


def log_sum(scores: Mapping[str, SiteScore], names: list[str], latents: list[str], summed: Mapping[str, int]) -> Tensor:
    """The logarithm of the sum over the latents of the product of the densities, in Pyro's shape, in nats."""
    inside = plates_of(scores[latents[0]].site)
    _require_summable(scores, names, latents, inside)
    terms = [within(scores[name], inside) for name in names]
    cells = prod(max(t.shape[summed[name]] for t in terms if t.dim() >= -summed[name]) for name in latents)
    if cells > MAX_CODES:
        raise ValueError(
            f"enumeration: summing {', '.join(map(repr, latents))} out together takes {cells:.3g} terms, and at most "
            f"{MAX_CODES} are; give TraceEnum_ELBO() as the objective, which eliminates them one by one"
        )
    total: Tensor = sum(terms[1:], terms[0])
    return total.logsumexp([summed[name] for name in latents], keepdim=True)


def within(score: SiteScore, inside: frozenset[str]) -> Tensor:
    """A term summed over the plates that the latents do not stand in."""
    dims = [f.dim for f in score.site["cond_indep_stack"] if f.vectorized and f.name not in inside]
    term = score.bare
    dims = [dim for dim in dims if term.dim() >= -dim]
    return term.sum(dims, keepdim=True) if dims else term


def _require_summable(
    scores: Mapping[str, SiteScore], names: list[str], latents: list[str], inside: frozenset[str]
) -> None:
    who = ", ".join(map(repr, latents))
    for name in names:
        score = scores[name]
        plates = plates_of(score.site)
        if not inside <= plates or (name in latents and plates != inside):
            raise ValueError(
                f"enumeration: {who} can be summed out where all that depends on it stands in its plates "
                f"{sorted(inside)}, but {name!r} stands in {sorted(plates)}; give TraceEnum_ELBO() as the objective"
            )
        if score.weighted:
            raise ValueError(
                f"enumeration: {name!r} bears a weight (poutine.scale) inside the sum over {who}, and a weight inside "
                "a logarithm makes no bound; take it away"
            )
        if name in latents and is_masked(score.site):  # of other sites a mask just leaves data out
            raise ValueError(
                f"enumeration: {name!r} is summed out and bears a mask, under which each of its values would count as "
                "1 and not their probabilities; take the mask away"
            )
