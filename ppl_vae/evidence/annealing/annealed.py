"""Annealed importance sampling: evidence from chains that walk from a start to the posterior, and back from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.evidence.annealing.annealing import Annealing, Arrived
from ppl_vae.evidence.annealing.errors import pooled_variance, relative_variance
from ppl_vae.evidence.annealing.hmc import HMC
from ppl_vae.evidence.annealing.path import Path, Start
from ppl_vae.evidence.annealing.schedule import tuned
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan
from ppl_vae.evidence.evidence import Bound, Evidence
from ppl_vae.evidence.weights import MAX_ERROR, believable, effective_sample_size, fewer_of, log_mean_exp

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["Annealed", "Sequential"]


@dataclass(frozen=True)
class Annealed:
    r"""Chains walk through temperatures from a start to the posterior; each is weighed by what it has met on the way.

    .. math::
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{p_\theta(x, u_{t-1})}{f_0(u_{t-1})}, \quad
        u_t \sim \text{HMC at } f_{\beta_t} \propto f_0^{1 - \beta_t} \, p_\theta(x, u)^{\beta_t}

    The mean weight is unbiased for p(x), so its log is a lower bound, which the number of temperatures raises. From the
    prior it owes the guide nothing, and meets modes that the guide does not know. From the guide, a normal of the mean
    and covariance of the guide's draws, it comes close in far fewer steps, where there is one mode. Temperatures and
    step sizes are found in a shorter run before, on noise of its own.

    Latents are continuous, or summed out. The error is from the spread of the log weights, about normal, half of it
    that of all rows; it is not known (nan) above half a nat, and then the temperatures are too few.

    Args:
        num_temperatures: T.
        num_particles: chains a datum.
        kernel: the transition.
        start: "prior" or "guide".

    Raises:
        ValueError: numbers below 1, or another start; in use: discrete latents that are not summed out; and from the
            prior, where that sum ties prior and likelihood.

    Radford Neal: "Annealed importance sampling", 2001.
    Yuhuai Wu, Yuri Burda, Ruslan Salakhutdinov, Roger Grosse: "On the quantitative analysis of decoder-based generative
    models", 2017.

    >>> Annealed(1000)
    Annealed(num_temperatures=1000, num_particles=16, kernel=HMC(num_leapfrog=2, accept=0.7), start='prior')
    """

    num_temperatures: int = 1000
    num_particles: int = 16
    kernel: HMC = field(default_factory=HMC)
    start: Start = "prior"

    def __post_init__(self) -> None:
        """Check the numbers."""
        numbers = (self.num_temperatures, self.num_particles)
        whole = all(isinstance(number, int) and number >= 1 for number in numbers)
        if not whole or self.start not in ("prior", "guide") or not isinstance(self.kernel, HMC):
            name = type(self).__name__
            raise ValueError(
                f"{name}: whole numbers >= 1, kernel=HMC(...) and start 'prior' or 'guide' are required, got {self!r}"
            )

    @property
    def resample(self) -> float:
        """The share of particles below which they are drawn anew."""
        return 0.0

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """Estimate log p(x) of the rows from below; see :func:`ppl_vae.evidence.log_evidence`."""
        return self.forward(self.prepared(pair, rows, seed, max_elements=max_elements))

    def prepared(
        self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS
    ) -> list[tuple[slice, Annealing]]:
        """Paths and schedules of pieces of the rows, which both ways take, with their places."""
        chunks = Plan.of(pair, rows, self.num_particles, max_elements).row_chunks(rows)
        return [(place, self.of(pair, chunk, self.key(seed, place))) for place, chunk in chunks]

    def forward(self, prepared: Sequence[tuple[slice, Annealing]]) -> Evidence:
        """Estimate log p(x) of the rows from below."""
        return summarized([annealing.forward(self.num_particles) for _, annealing in prepared], repr(self))

    def reverse(
        self,
        prepared: Sequence[tuple[slice, Annealing]],
        values: Mapping[str, Tensor],
        *,
        bound: Bound = "upper",
        transitions: int = 0,
    ) -> Evidence:
        """Estimate log p(x) of the rows from above: every chain walks back from a draw of the posterior.

        Args:
            prepared: of :meth:`prepared`.
            values: draws of the posterior by site, (1, N, ...) or (num_particles, N, ...). Exact ones make an upper
                bound, others none.
            bound: "upper", or "estimate" where the draws are not exact.
            transitions: at the posterior, before the chains set out; exact draws need none.

        Returns:
            an Evidence; its error is not known (nan) where the model excludes some draws of the start: there the value
            is an upper bound still, and too high by a constant that no number of temperatures takes away.
        """
        parts, excluded = [], []
        for place, annealing in prepared:
            path, pair = annealing.path, annealing.path.pair
            some = {name: value if pair.has_global_latents else value[:, place] for name, value in values.items()}
            v = path.of_values(pair.unconstrain(path.rows, some)[0])
            v = v.expand(self.num_particles, *v.shape[1:])  # chains from one draw, or from one each
            point = annealing.at_rest(path.at(v), transitions)
            parts.append(Arrived(annealing.backward(point)))
            excluded.append(annealing.excludes_some().cpu())
        found = summarized(parts, f"reverse of {self!r}", bound=bound)
        # No chain ends where the model excludes a draw of the start: the value is too high by -log of what is left.
        unknown = torch.cat(excluded) if found.value.dim() else excluded[0]
        return replace(found, standard_error=found.standard_error.masked_fill(unknown, math.nan))

    def of(self, pair: Pair, rows: Rows, seed: int) -> Annealing:
        """Path and schedule of some rows."""
        path = Path.of(pair, rows, self.start, fold(seed, "path"))
        schedule = tuned(path, self.kernel, self.num_temperatures, self.num_particles, fold(seed, "schedule"))
        return Annealing(path, schedule, self.kernel, seed, self.resample)

    def key(self, seed: int, place: slice) -> int:
        """The noise of a piece of the rows."""
        return fold(seed, type(self).__name__, self.num_temperatures, place.start)


@dataclass(frozen=True)
class Sequential(Annealed):
    """The same walk, by particles that are drawn anew, by weight, whenever fewer than half of them count.

    A sequential Monte Carlo sampler: what has gone astray is dropped, so that few temperatures and many particles do
    where modes are of very different heights; with few particles all soon descend from one, and the error is not known.

    Pierre Del Moral, Arnaud Doucet, Ajay Jasra: "Sequential Monte Carlo samplers", 2006.

    >>> Sequential(100, 500)
    Sequential(num_temperatures=100, num_particles=500, kernel=HMC(num_leapfrog=2, accept=0.7), start='prior')
    """

    num_temperatures: int = 100
    num_particles: int = 256

    @property
    def resample(self) -> float:
        """The share of particles below which they are drawn anew."""
        return 0.5


def summarized(parts: Sequence[Arrived], name: str, *, bound: Bound = "lower") -> Evidence:
    """What weights, (S, N) or (S,), say of log p(x)."""
    weight = torch.cat([part.log_weight.cpu() for part in parts], -1).double()
    ancestors = [part.ancestor.cpu() for part in parts if part.ancestor is not None]
    if bound != "lower":
        weight = -weight
    variance = relative_variance(weight, torch.cat(ancestors, -1) if ancestors else None)
    # That of ancestors' shares is less steady, and said up to a quarter of a nat only.
    most = MAX_ERROR / 2 if ancestors else MAX_ERROR
    error = believable(pooled_variance(variance, None if ancestors else weight, most).sqrt(), most)
    value, ess = log_mean_exp(weight), effective_sample_size(weight)
    tail = torch.full_like(value, math.nan)
    fewer = fewer_of(weight) if bound == "lower" and not ancestors else None
    value = value if bound == "lower" else -value
    return Evidence(value, error, ess, tail, bound, name, fewer, needs_khat=False)
