"""Tensor dimensions for sites that are summed out: one each, used again under ``pyro.markov`` where one has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.pair.enumeration import support_of

__all__ = ["GiveSupport", "Summed"]

LEFTMOST = -60
"""Torch's tensors have at most 64 dimensions."""

RESTING = 8
"""For how many sites a dimension under ``pyro.markov`` is not used again, if there are others.

Where a model reaches back further than its history says, the dimension is then seen to be no site's in scope; taken at
once by another, it would pass for that one's.
"""

Dims = dict[int, str]
"""Which summed site a dimension stands for."""


@dataclass(frozen=True)
class Summed:
    """The sites that a run sums out, and what their dimensions mean at each site.

    Attributes:
        names: the sites, in the order of the model.
        dims: by name of a site (any of the model): the dimensions on which its density may depend, and whose they are
            there. A dimension may be another site's elsewhere.
        rank: the number of dimensions to the right of these: plates, particles, enumerated sites of the guide.
    """

    names: tuple[str, ...] = ()
    dims: Mapping[str, Dims] = field(default_factory=dict)
    rank: int = 0

    def __bool__(self) -> bool:
        return bool(self.names)

    def variables(self, name: str, term: Tensor) -> Dims:
        """The summed sites on which a term of a site, in Pyro's shape, depends, by dimension; itself included."""
        known = self.dims.get(name, {})
        return {d: who for d, who in known.items() if term.dim() >= -d and (term.shape[d] > 1 or who == name)}


class GiveSupport(Messenger):
    """Give the named sites their whole support, each along a dimension of its own from ``first_dim`` leftwards.

    Under ``pyro.markov`` a dimension is free again where no site that is still in scope has it: a chain of any length
    takes a few more than its history. What is in scope follows Pyro's own account
    (``pyro.poutine.markov_messenger``); the dimensions are counted here, and not in Pyro's allocator, which is one for
    the whole process.

    Raises:
        ValueError: a site depends on one that ``pyro.markov`` has let go of, or torch's dimensions are used up.
    """

    def __init__(self, names: Collection[str], first_dim: int) -> None:
        super().__init__()
        self.names, self._first, self._rank = frozenset(names), first_dim, -first_dim - 1
        self._lasting: Dims = {}  # of sites outside pyro.markov
        self._depths: dict[str, int] = {}
        self._carried: dict[str, Dims] = {}  # the dimensions that the value of a site has
        self._known: dict[str, Dims] = {}
        self._given: list[str] = []
        self._latest: dict[int, str] = {}  # whose each dimension was last, the oldest first

    @property
    def summed(self) -> Summed:
        """What was given, and where."""
        return Summed(tuple(self._given), dict(self._known), self._rank)

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        name, scope = msg["name"], msg["infer"].get("_markov_scope")
        known = self._known[name] = self._in_scope(name, scope, msg["infer"])
        self._require_in_scope(msg, known)
        if name not in self.names or msg["done"] or msg["is_observed"]:
            return
        dim = self._take(name, known)
        msg["value"], msg["done"] = _along(support_of(msg["fn"], name), dim, msg["fn"]), True
        self._given.append(name)

    def _in_scope(self, name: str, scope: Mapping[str, int] | None, infer: Mapping[str, Any]) -> Dims:
        known = dict(self._lasting)
        for other, depth in (scope or {}).items():
            if self._depths.get(other) == depth:  # its markov context has not been left
                known.update(self._carried.get(other, {}))
        if scope is not None:
            self._depths[name] = infer["_markov_depth"]
        return known

    def _require_in_scope(self, msg: Any, known: Dims) -> None:
        shape = getattr(msg["fn"], "batch_shape", ())
        beyond = [dim for dim in range(-len(shape), -self._rank) if shape[dim] > 1 and dim not in known]
        stale = [self._latest[dim] for dim in beyond if dim in self._latest]
        if stale:
            raise ValueError(
                f"enumeration: {msg['name']!r} depends on {', '.join(map(repr, stale))}, which pyro.markov has let go "
                "of; give it a longer history= if it reaches back, or put the site inside the loop if it stands after"
            )

    def _take(self, name: str, known: Dims) -> int:
        dim = self._free(known)
        self._latest.pop(dim, None)
        self._latest[dim] = known[dim] = name
        return dim

    def _free(self, known: Dims) -> int:
        resting = list(self._latest)[-RESTING:]
        rested = (d for d in range(self._first, LEFTMOST - 1, -1) if d not in known and d not in resting)
        dim = next(rested, None) or next((d for d in self._latest if d not in known), None)
        if dim is None:
            raise ValueError(
                f"enumeration: more than {len(known)} sites that are summed out would have a tensor dimension at once, "
                "and torch has 64; write the loop as `for t in pyro.markov(range(T))`, which uses them again"
            )
        return dim

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or not isinstance(msg["value"], Tensor):
            return
        name, rank = msg["name"], msg["value"].dim() - len(msg["fn"].event_shape)
        shape = msg["value"].shape[:rank]
        known = self._known.get(name, {})
        carried = {dim: who for dim, who in known.items() if rank >= -dim and shape[dim] > 1}
        self._carried[name] = carried
        if msg["infer"].get("_markov_scope") is None:
            self._lasting.update({dim: who for dim, who in carried.items() if who == name})


def _along(support: Tensor, dim: int, fn: Any) -> Tensor:
    """All values of a distribution along a dimension of its batch shape."""
    value = support.reshape(len(support), *(1,) * (-dim - 1), *fn.event_shape)
    if not fn.event_shape:
        value._pyro_categorical_support = id(fn)  # type: ignore[attr-defined]  # Pyro's mark: no gather is needed
    return value
