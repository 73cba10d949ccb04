r"""Sums over many discrete latents, one after the other: linear in the length of a chain, exact, with gradients.

.. math:: \log \sum_{c_1, \dots, c_T} \prod_f f(c_f) = \log \sum_{c_T} \cdots \sum_{c_1} \prod_f f(c_f)

Each sum is taken over the product of the factors that hold the variable, and leaves a factor of its neighbours. A
variable whose plate its neighbours do not stand in is summed first, and what is left is multiplied over that plate.

Source: Zhang, Poole, "A simple approach to Bayesian network computations", 1994; Obermeyer, Bingham, Jankowiak, Chiu,
Pradhan, Rush, Goodman, "Tensor Variable Elimination for Plated Factor Graphs", 2019.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ppl_vae.distributions import MAX_CODES

__all__ = ["Elimination", "Factor", "eliminate"]

Plates = frozenset[int]
"""Plates, by their (negative) tensor dimension."""


@dataclass(frozen=True)
class Factor:
    """A factor of a product, as its logarithm.

    Attributes:
        term: its values, (K of each variable, in order; the dimensions of plates), nats.
        variables: on which it depends.
        plates: in which it stands.
    """

    term: Tensor
    variables: tuple[str, ...]
    plates: Plates


@dataclass(frozen=True)
class _Step:
    """A sum that was taken: over a variable, of the product of what held it."""

    variable: str
    product: Factor


@dataclass(frozen=True)
class Elimination:
    """A sum over all variables, and the way it was taken, along which they can be drawn.

    Attributes:
        total: its logarithm, in the shape of the plates, nats.
        steps: the sums, in their order.
    """

    total: Tensor
    steps: Sequence[_Step]

    def draw(self) -> dict[str, Tensor]:
        """A joint draw of the variables from the distribution whose normalizer the sum is: numbers of values, in the
        shape of each variable's plates.

        Backwards: each is drawn from the product that was summed over it, at what was drawn after it.
        """
        drawn: dict[str, Tensor] = {}
        for step in reversed(self.steps):
            logits = step.product.term
            for place, name in reversed(list(enumerate(step.product.variables[1:], 1))):
                logits = _at(logits, place, drawn[name])
            drawn[step.variable] = torch.distributions.Categorical(logits=logits.movedim(0, -1)).sample()
        return drawn


def _at(term: Tensor, place: int, index: Tensor) -> Tensor:
    """A term (..., K at ``place``, ..., plates) at values of that variable, in the shape of plates."""
    rank = index.dim()
    lead = term.shape[: term.dim() - rank]
    plates = torch.broadcast_shapes(term.shape[term.dim() - rank :], index.shape)
    index = index.expand(*(1 if i == place else size for i, size in enumerate(lead)), *plates)
    return term.expand(*lead, *plates).take_along_dim(index, place).squeeze(place)


def eliminate(factors: Sequence[Factor], sizes: Mapping[str, int], plates: Mapping[str, Plates]) -> Elimination:
    """Sum the product of the factors over all variables.

    Args:
        sizes: how many values each variable has.
        plates: in which plates each variable stands.

    Returns:
        the sum, in the plates that all variables stand in.

    Raises:
        ValueError: a factor ties variables of plates of which neither holds the other, so that the sum is over all
            combinations in a plate; or a sum has too many terms at once.
    """
    left = dict(enumerate(factors))
    holders: dict[str, set[int]] = {name: set() for name in sizes}
    for i, factor in left.items():
        for name in factor.variables:
            holders[name].add(i)
    steps = []
    for name in _order(left, holders, sizes, plates):
        inside = plates[name]
        used = frozenset(holders[name])
        if not used:  # a site of a single value, on which nothing depends
            continue
        parts = [left.pop(i) for i in sorted(used)]
        product = _product([_within(part, inside, plates) for part in parts], name, sizes, inside)
        steps.append(_Step(name, product))
        message = Factor(_log_sum(product.term), product.variables[1:], inside)
        for part in parts:
            for other in part.variables:
                holders[other] -= used
        new = len(factors) + len(steps)
        left[new] = message
        for other in message.variables:
            holders[other].add(new)
    common = frozenset.intersection(*plates.values())
    totals = [_summed_over(factor.term, factor.plates - common) for factor in left.values()]
    total = sum(totals[1:], totals[0])
    return Elimination(total.masked_fill(total <= _least(total), -torch.inf), steps)


def _least(term: Tensor) -> float:
    return torch.finfo(term.dtype).min


def _log_sum(term: Tensor) -> Tensor:
    """The logarithm of the sum over the first dimension; of nothing but zeros the least number instead of -inf.

    A state of a chain that cannot be reached is such a sum, and the derivative of ``logsumexp`` there is not a number.
    """
    return term.clamp(min=_least(term)).logsumexp(0)


def _order(
    left: Mapping[int, Factor],
    holders: Mapping[str, set[int]],
    sizes: Mapping[str, int],
    plates: Mapping[str, Plates],
) -> Iterator[str]:
    """The variables, those in the most plates first, then the one with the smallest product.

    It is read while sums are taken: ``left`` and ``holders`` change in between.
    """

    def cost(name: str) -> tuple[int, int, int]:
        others = {other for i in holders[name] for other in left[i].variables}
        return -len(plates[name]), prod(sizes[other] for other in others), places[name]

    places = {name: i for i, name in enumerate(sizes)}
    heap = [(cost(name), name) for name in sizes]
    heapq.heapify(heap)
    done: set[str] = set()
    while heap:
        known, name = heapq.heappop(heap)
        if name in done:
            continue
        now = cost(name)
        if now > known:  # it has grown since it was put there
            heapq.heappush(heap, (now, name))
            continue
        neighbours = {other for i in holders[name] for other in left[i].variables} - {name}
        done.add(name)
        yield name
        for other in neighbours:
            heapq.heappush(heap, (cost(other), other))


def _within(factor: Factor, inside: Plates, plates: Mapping[str, Plates]) -> Factor:
    """The factor multiplied over the plates that the variable to be summed does not stand in."""
    beyond = factor.plates - inside
    stuck = sorted(name for name in factor.variables if plates[name] & beyond)
    if stuck or not inside <= factor.plates:
        who = ", ".join(map(repr, factor.variables))
        raise ValueError(
            f"enumeration: a density ties {who}, which stand in plates of which neither holds the other, so that the "
            "sum is over all combinations in a plate; draw some of these sites in the guide, or make them one site"
        )
    return Factor(_summed_over(factor.term, beyond), factor.variables, inside) if beyond else factor


def _summed_over(term: Tensor, plates: Plates) -> Tensor:
    dims = [dim for dim in plates if term.dim() >= -dim]
    return term.sum(dims, keepdim=True) if dims else term


def _product(parts: Sequence[Factor], name: str, sizes: Mapping[str, int], inside: Plates) -> Factor:
    """The product of factors, the variable to be summed first."""
    variables = (name, *dict.fromkeys(v for part in parts for v in part.variables if v != name))
    cells = prod(sizes[v] for v in variables)
    if cells > MAX_CODES:
        raise ValueError(
            f"enumeration: summing out {name!r} takes {cells:.3g} terms at once, over "
            f"{', '.join(map(repr, variables))}, and at most {MAX_CODES} are; draw some of these sites in the guide"
        )
    terms = [_aligned(part, variables) for part in parts]
    return Factor(sum(terms[1:], terms[0]), variables, inside)


def _aligned(factor: Factor, variables: tuple[str, ...]) -> Tensor:
    """The term with a dimension for each of these variables, in their order."""
    count = len(factor.variables)
    order = sorted(range(count), key=lambda i: variables.index(factor.variables[i]))
    term = factor.term.permute(*order, *range(count, factor.term.dim()))
    for place, name in enumerate(variables):
        if name not in factor.variables:
            term = term.unsqueeze(place)
    return term
