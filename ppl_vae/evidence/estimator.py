"""What an estimator of log p(x) is, and the one loop that those made of importance weights share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from ppl_vae._random import fold
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, resolution_of, slices
from ppl_vae.evidence.coincidence import Coincidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.weights import join, summarize

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Draws, Pair

__all__ = ["Estimator", "FromWeights"]


@runtime_checkable
class Estimator(Protocol):
    """A way to estimate log p(x) of a pair.

    Implementing a new one:

    - a frozen dataclass whose fields are its settings; its ``repr`` names it in reports;
    - ``estimate`` returns an :class:`Evidence` with (N,) values, or () for a pair with latents shared by all data;
    - its error bars must cover the exact log p(x) of the linear-Gaussian model: one entry in the tests' table.
    """

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int) -> Evidence:
        """Estimate log p(x) of the rows, in runs of at most ``max_elements`` numbers."""
        ...


@dataclass(frozen=True, repr=False)
class FromWeights(ABC):
    """An estimator that averages K weights p(x, z) / q(z) of independent draws; a subclass says who proposes.

    Args:
        num_samples: K, draws a datum.
    """

    num_samples: int

    @abstractmethod
    def draw(self, pair: Pair, rows: Rows, count: int, seed: int) -> Draws:
        """Scored draws of the proposal."""

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """Estimate log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`.

        Beside one run, the log weights of a chunk are kept, 8 K bytes a row: k-hat needs them all at once.
        """
        plan = Plan.of(pair, rows, self.num_samples, max_elements)
        parts = [
            self.of_chunk(pair, chunk, plan.draws, (seed, self.named, place.start))
            for place, chunk in plan.row_chunks(rows)
        ]
        return parts[0] if plan.rows is None else join(parts)

    def of_chunk(self, pair: Pair, rows: Rows, block: int, key: tuple[Any, ...]) -> Evidence:
        """The evidence of some rows, in runs of at most ``block`` draws, on noise of ``key``."""
        weights, coincidence = [], Coincidence(pair)
        for place in slices(self.num_samples, block):
            count = place.stop - place.start
            draws = self.draw(pair, rows, count, fold(*key, place.start))
            coincidence.see(draws)
            weights.append(draws.log_weight.expand(count, *draws.log_weight.shape[1:]))  # without latents all are one
        found, resolution = torch.cat(weights), resolution_of(pair)
        return summarize(found, repr(self), resolution=resolution, coincide=coincidence.flags)

    @property
    def named(self) -> str:
        """The estimator and K, by which its noise is told from that of others."""
        return f"{type(self).__name__}({self.num_samples})"

    def __repr__(self) -> str:
        return self.named
