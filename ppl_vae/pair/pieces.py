"""A run with many classes, its model run piece by piece over them, so that memory has a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.enumeration import Expectation, narrowed, pieces
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.extra import Feeds
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.masks import as_in_model
from ppl_vae.pair.recycling import Summed
from ppl_vae.pair.scores import SiteScore

Cut = tuple[str, int, int]
"""A site, and the start and number of its values."""

Replay = Callable[[Trace], tuple[Trace, Summed]]
"""Run the model against a guide's trace: its trace, and what is summed out."""


def pieces_of(guide_trace: Trace, expectation: Expectation) -> list[Cut]:
    """The cuts that keep each run within the ``infer={"max_rows": ...}`` of the site with the most values."""
    name = max(expectation.dims, key=expectation.size)
    site: Any = guide_trace.nodes[name]
    most = site["infer"].get("max_rows")
    if most is None:
        return []
    values, others = expectation.size(name), [expectation.size(n) for n in expectation.dims if n != name]
    rows = expectation.log_q(name).numel() // values * prod(others)
    return [(name, start, length) for start, length in pieces(values, most // max(1, rows))]


@dataclass(frozen=True)
class InPieces(Execution):
    """An enumerated run whose model is run anew for each piece of one site's values.

    Between the pieces nothing is kept but their sums: the backward pass runs each piece once more.
    """

    replay: Replay = field(kw_only=True)
    cuts: Sequence[Cut] = field(kw_only=True)

    @classmethod
    def of(
        cls,
        guide_trace: Trace,
        layout: Layout,
        num_particles: int | None,
        expectation: Expectation,
        replay: Replay,
        cuts: Sequence[Cut],
        feeds: Feeds,
    ) -> InPieces:
        """Look at the first piece for the structure of the model, and leave the numbers for later."""
        name, start, length = cuts[0]
        with torch.no_grad():
            model_trace, summed = replay(narrowed(guide_trace, expectation.dims[name], start, length))
        guide_trace = as_in_model(guide_trace, model_trace, feeds)
        _require_one_mask(guide_trace, name, expectation.dims[name])
        return cls(model_trace, guide_trace, layout, num_particles, expectation, summed, replay=replay, cuts=cuts)

    def score_model(self) -> dict[str, SiteScore]:
        """Every sample site of the model: the sum of what the pieces add to its expectation."""
        structure = self._piece(self.model_trace, self.summed, *self.cuts[0])
        totals: dict[str, Tensor] = {}
        for i, cut in enumerate(self.cuts):
            found = self._terms(structure, cut)
            for name, term in found.items():
                if i == 0:
                    totals[name] = term
                elif self._adds(structure[name]):
                    totals[name] = totals[name] + term
        return {
            name: score.replaced(totals[name], absorbed=score.absorbed, summed=score.summed)
            for name, score in structure.items()
        }

    def is_whole(self, site: Mapping[str, Any]) -> bool:
        """Is the site's distribution in this run that of all values of the enumerated sites?"""
        assert self.expectation is not None
        dim, shape = self.expectation.dims[self.cuts[0][0]], site["fn"].batch_shape
        return len(shape) < -dim or shape[dim] == 1

    def _terms(self, structure: Mapping[str, SiteScore], cut: Cut) -> dict[str, Tensor]:
        """What a piece adds, by site, in Pyro's shape."""

        def run() -> tuple[Tensor, ...]:
            name, start, length = cut
            assert self.expectation is not None
            trace, summed = self.replay(narrowed(self.guide_trace, self.expectation.dims[name], start, length))
            return tuple(score.raw for score in self._piece(trace, summed, *cut).values())

        terms = checkpoint(run, use_reentrant=False) if torch.is_grad_enabled() else run()
        return dict(zip(structure, terms, strict=True))

    def _piece(self, trace: Trace, summed: Summed, *cut: Any) -> dict[str, SiteScore]:
        assert self.expectation is not None
        part = self.expectation.narrow(*cut)
        return Execution(trace, self.guide_trace, self.layout, self.num_particles, part, summed).score_model()

    def _adds(self, score: SiteScore) -> bool:
        """Does the term of a site depend on the values that are cut? If not, each piece finds the same."""
        assert self.expectation is not None
        return self.expectation.involves(self.cuts[0][0], score.bare)


def _require_one_mask(guide_trace: Trace, who: str, dim: int) -> None:
    """Raise ValueError if a mask of the model differs between the values that are cut: log q is counted in one run."""
    for name, site in sample_sites(guide_trace):
        mask = site["mask"]
        if isinstance(mask, Tensor) and mask.dim() >= -dim and mask.shape[dim] > 1:
            raise ValueError(
                f"enumeration: the mask of {name!r} depends on {who!r}, whose values are run in pieces; leave "
                "infer={'max_rows': ...} away"
            )
