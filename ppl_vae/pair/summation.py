"""Latents of the model alone, summed out of its density: log p(x, z) = log sum over c of p(x, z, c)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.distributions import without_mask
from ppl_vae.pair.elimination import Elimination, Factor, Plates, eliminate
from ppl_vae.pair.recycling import Summed

if TYPE_CHECKING:
    from ppl_vae.pair.scores import SiteScore

__all__ = ["Component", "components", "sum_out"]


@dataclass(frozen=True)
class Component:
    """Sites that hang together through summed ones, and those; all that is needed to sum them out.

    Attributes:
        names: the sites, in the model's order.
        latents: the summed ones among them, likewise.
    """

    names: list[str]
    latents: dict[str, None]
    scores: Mapping[str, SiteScore]
    summed: Summed

    @cached_property
    def factors(self) -> dict[str, Factor]:
        """Log p of each site, with the dimensions of summed sites first.

        Raises:
            ValueError: one bears a weight.
        """
        self._require_unweighted()
        return {name: self._factor(name) for name in self.names}

    @cached_property
    def plates(self) -> dict[str, Plates]:
        """In which plates each site stands."""
        stacks = {name: self.scores[name].site["cond_indep_stack"] for name in self.names}
        return {name: frozenset(f.dim for f in stack if f.vectorized) for name, stack in stacks.items()}

    @cached_property
    def all_plates(self) -> Plates:
        """The plates in which any of the sites stands."""
        return frozenset[int]().union(*self.plates.values())

    @cached_property
    def shape(self) -> torch.Size:
        """The shape of all terms together, without the dimensions of summed sites."""
        rank = self.summed.rank
        return torch.broadcast_shapes(*(f.term.shape[f.term.dim() - rank :] for f in self.factors.values()))

    def size(self, name: str) -> int:
        """How many values a summed site has."""
        dim = next(dim for dim, who in self.summed.dims[name].items() if who == name)
        site = self.scores[name].site
        return int(site["value"].shape[dim - len(site["fn"].event_shape)])

    def eliminate(self, shifts: Mapping[str, Tensor] | None = None) -> Elimination:
        """Sum the latents out one after the other.

        Args:
            shifts: added to log p of each value of a latent, (K, *shape): for derivatives.

        Raises:
            ValueError: a term bears a weight, or plates do not nest; see ``elimination.eliminate``.
        """
        more = [Factor(shift, (name,), self.plates[name]) for name, shift in (shifts or {}).items()]
        sizes = {name: self.size(name) for name in self.latents}
        return eliminate([*self.factors.values(), *more], sizes, {name: self.plates[name] for name in self.latents})

    def _factor(self, name: str) -> Factor:
        score, rank = self.scores[name], self.summed.rank
        # A summed site is taken without its mask: over its values it sums to one.
        term = unmasked(score) if name in self.latents else score.bare
        found = self.summed.variables(name, term)
        term = term.reshape((1,) * (rank - term.dim()) + term.shape)
        lead = term.dim() - rank
        places = [term.dim() + dim for dim in found]
        idle = [i for i in range(lead) if i not in places]
        term = term.permute(*idle, *places, *range(lead, lead + rank))
        return Factor(term.reshape(term.shape[len(idle) :]), tuple(found.values()), self.plates[name])

    def _require_unweighted(self) -> None:
        for name in self.names:
            if self.scores[name].weighted or self.scores[name].inflation != 1.0:
                raise ValueError(
                    f"enumeration: {name!r} bears a weight (poutine.scale, a subsampled plate) inside the sum over "
                    f"{', '.join(map(repr, self.latents))}, and a weight inside a logarithm makes no bound; take it "
                    "away"
                )


def unmasked(score: SiteScore) -> Tensor:
    """Log p of a site in Pyro's shape without its mask."""
    term: Tensor = without_mask(score.site["fn"]).log_prob(score.site["value"])
    return term


def sum_out(scores: Mapping[str, SiteScore], summed: Summed) -> dict[str, SiteScore]:
    """The scores with each set of terms that hang together through summed sites put into one.

    The sum stands at the set's observed site, if it has one, else at the summed site itself; the others are absorbed:
    their density is 0, since it is counted there.

    Raises:
        ValueError: see :meth:`Component.eliminate`.
    """
    result = dict(scores)
    for part in components(scores, summed):
        carrier = next((name for name in part.names if scores[name].observed), next(iter(part.latents)))
        total = part.eliminate().total
        nothing = torch.zeros_like(total)
        for name in part.names:
            bare = total if name == carrier else nothing
            result[name] = scores[name].replaced(bare, absorbed=name != carrier, summed=name in part.latents)
    return result


def components(scores: Mapping[str, SiteScore], summed: Summed) -> list[Component]:
    """The sets of sites that hang together through summed sites."""
    leader = {name: name for name in summed.names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    on = {name: set(summed.variables(name, score.bare).values()) for name, score in scores.items()}
    for name in summed.names:
        on[name] = on[name] | {name}  # also one of a single value
    for latents in on.values():
        for other in latents:
            leader[find(other)] = find(min(latents))
    groups: dict[str, list[str]] = {}
    for name, latents in on.items():
        if latents:
            groups.setdefault(find(next(iter(latents))), []).append(name)
    latents_of = {who: dict.fromkeys(name for name in names if name in leader) for who, names in groups.items()}
    return [Component(names, latents_of[who], scores, summed) for who, names in groups.items()]
