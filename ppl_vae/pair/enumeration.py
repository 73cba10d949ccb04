"""Exact expectations over discrete latents: each gets its whole support, along a tensor dimension of its own.

The dimensions lie to the left of every plate and of the particles. A run with enumerated sites is an ordinary run whose
terms log p and log q have these dimensions too; :class:`Expectation` weighs them by q and sums them away.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.distributions import MAX_CODES, unwrap, without_mask
from ppl_vae.distributions.codes import all_codes
from ppl_vae.pair.axis import sample_sites


def is_marked(site: Mapping[str, Any]) -> bool:
    """Has the author asked for enumeration, by ``infer={"enumerate": "parallel"}`` or ``config_enumerate``?"""
    return site["infer"].get("enumerate") == "parallel" and not site["is_observed"]


def is_masked(site: Mapping[str, Any]) -> bool:
    """Does the site bear a mask, of ``poutine.mask`` or of its distribution?"""
    fn = unwrap(site["fn"], MaskedDistribution)
    return isinstance(fn, MaskedDistribution) or not (site["mask"] is None or site["mask"] is True)


def num_values(fn: Any) -> int | None:
    """How many values a discrete distribution has; None if they are not finitely many.

    A distribution whose joint values are too many to be listed says their number itself, as ``num_values``.
    """
    base, entries = _entries(fn)
    known = getattr(base, "num_values", None)
    if known is None:
        try:
            known = len(base.enumerate_support(expand=False))
        except NotImplementedError:
            return None
    return int(known**entries)


def _entries(fn: Any) -> tuple[Any, int]:
    """What the independent entries of a distribution are distributed as, and how many there are."""
    base = fn
    while isinstance(base, Independent):
        base = base.base_dist
    return base, 1 if base is fn else prod(fn.event_shape)


def support_of(fn: Any, who: str) -> Tensor:
    """All values of a discrete distribution: (C, *event).

    Independent entries, such as ``Bernoulli(logits).to_event(1)``, which Pyro does not enumerate, give all their
    combinations: C = K^M for M entries of K values.

    Raises:
        ValueError: for a distribution that cannot be enumerated, or one of more than ``MAX_CODES`` values.
    """
    event = torch.Size(fn.event_shape)
    base, size = _entries(fn)
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:
        raise ValueError(
            f"enumeration: {who!r} must have a finite support, got {type(fn).__name__} with support {fn.support}; "
            "draw it instead (leave infer={'enumerate': 'parallel'} away)"
        ) from None
    if base is fn:
        return values.reshape(len(values), *event)
    if len(values) ** size > MAX_CODES:
        raise ValueError(
            f"enumeration: {who!r} has {len(values)}^{size} = {len(values) ** size:.3g} joint values, and at most "
            f"{MAX_CODES} can be summed over; draw it (RLOO, VIMCO), relax it, or put its entries into a plate"
        )
    codes = all_codes(size, len(values), device=values.device)
    return values.reshape(-1)[codes].reshape(-1, *event)


class Enumerate(Messenger):
    """Give the named sites their whole support, each along a dimension of its own from ``first_dim`` leftwards."""

    def __init__(self, names: Collection[str], first_dim: int) -> None:
        super().__init__()
        self.names, self.first_dim = frozenset(names), first_dim
        self.dims: dict[str, int] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.names or msg["done"] or msg["is_observed"]:
            return
        support = support_of(fn, name)
        dim = self.dims[name] = self.first_dim - len(self.dims)
        value = support.reshape(len(support), *(1,) * (-dim - 1), *fn.event_shape)
        if not fn.event_shape:
            value._pyro_categorical_support = id(fn)  # type: ignore[attr-defined]  # Pyro's mark: no gather is needed
        msg["value"], msg["done"] = value, True


def dims_in(term: Tensor, dims: Mapping[str, int]) -> set[str]:
    """The sites on which a term in Pyro's shape depends through their dimensions."""
    return {name for name, dim in dims.items() if term.dim() >= -dim and term.shape[dim] > 1}


def drop_left(term: Tensor, rank: int) -> Tensor:
    """The term without its leading dimensions of size 1 beyond ``rank``."""
    return term.reshape(term.shape[term.dim() - rank :]) if term.dim() > rank else term


def plates_of(site: Mapping[str, Any]) -> frozenset[str]:
    """The names of the vectorized plates around a site."""
    return frozenset(frame.name for frame in site["cond_indep_stack"] if frame.vectorized)


class Expectation:
    """E_q over the enumerated sites of a guide, for any term of the run.

    A term depends on an enumerated site only through the site's dimension, so its expectation is a sum over the
    dimensions that it has, and over those on which the densities of these sites depend in turn. It is exact where the
    term stands inside the plates of each of them; elsewhere the sum would be over all combinations, and is refused.

    Args:
        guide_trace: the guide's run.
        dims: the dimension of each enumerated site.
        first_dim: the rightmost of the dimensions that enumeration may take.
    """

    def __init__(self, guide_trace: Trace, dims: Mapping[str, int], first_dim: int) -> None:
        self.dims, self._rank = dict(dims), -first_dim - 1
        self._sites: dict[str, Any] = {name: guide_trace.nodes[name] for name in dims}
        self._log_q: dict[str, Tensor] = {}

    def log_q(self, name: str) -> Tensor:
        """Log q of every value of a site, without its mask: a mask takes a term away, and no probability."""
        if name not in self._log_q:
            site = self._sites[name]
            self._log_q[name] = without_mask(site["fn"]).log_prob(site["value"])
        return self._log_q[name]

    def _closure(self, names: set[str]) -> set[str]:
        """These sites, and all enumerated ones that their densities depend on."""
        parents = {other for name in names for other in dims_in(self.log_q(name), self.dims)} | names
        return parents if parents == names else self._closure(parents)

    def size(self, name: str) -> int:
        """How many values a site has."""
        site = self._sites[name]
        return int(site["value"].shape[self.dims[name] - len(site["fn"].event_shape)])

    def involves(self, name: str, term: Tensor) -> bool:
        """Is the expectation of a term one over this site too?"""
        return name in self._closure(dims_in(term, self.dims))

    def narrow(self, name: str, start: int, length: int) -> Expectation:
        """The part of the sum that a piece of one site's values makes."""
        part = copy.copy(self)
        part._log_q = {n: cut(self.log_q(n), self.dims[name], start, length) for n in self.dims}
        return part

    def __call__(self, term: Tensor, site: Mapping[str, Any]) -> Tensor:
        """The expectation of a term of ``site`` in Pyro's shape, without the dimensions of enumeration."""
        names = dims_in(term, self.dims)
        if names:
            names = self._closure(names)
            self.require_inside(names, site)
            weight = sum(self.log_q(name) for name in sorted(names)).exp()  # type: ignore[union-attr]
            term = torch.where(weight > 0, term, 0.0)  # 0 * log 0 = 0
            term = (weight * term).sum([self.dims[name] for name in names], keepdim=True)
        return drop_left(term, self._rank)

    def require_inside(self, names: Iterable[str], site: Mapping[str, Any]) -> None:
        """Raise ValueError unless the site stands inside the plates of all these enumerated sites."""
        for name in sorted(names):
            outside = sorted(plates_of(self._sites[name]) - plates_of(site))
            if outside:
                raise ValueError(
                    f"enumeration: {site['name']!r} depends on {name!r} but stands outside its plate {outside[0]!r}, "
                    "so its expectation is a sum over all combinations in that plate; make them one site, or draw them"
                )


def pieces(size: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut ``size`` values into even pieces (start, length) of at most ``most``, none of a single value.

    A dimension of size 1 would look as if nothing depended on it.

    >>> list(pieces(7, 3)), list(pieces(3, 1))
    ([(0, 2), (2, 2), (4, 3)], [(0, 3)])
    """
    count = max(1, min(-(-size // max(1, most)), size // 2))
    for i in range(count):
        start, end = i * size // count, (i + 1) * size // count
        yield start, end - start


def narrowed(trace: Trace, dim: int, start: int, length: int) -> Trace:
    """A copy of a trace with the values of every site cut to a piece of the enumeration dimension ``dim``."""
    piece = trace.copy()
    for name, site in sample_sites(trace):
        if isinstance(site["value"], Tensor):
            place = dim - len(site["fn"].event_shape)
            piece.nodes[name] = {**site, "value": cut(site["value"], place, start, length)}
    return piece


def cut(term: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A piece of a dimension, if the tensor has it."""
    return term.narrow(dim, start, length) if term.dim() >= -dim and term.shape[dim] > 1 else term
