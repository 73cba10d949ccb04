"""Bridge sampling: evidence from draws of the posterior and draws of a normal that is fitted to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.evidence.annealing.hmc import HMC
from ppl_vae.evidence.annealing.near import near_posterior
from ppl_vae.evidence.annealing.path import Path
from ppl_vae.evidence.annealing.step_sizes import StepSizes
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.weights import believable, join
from ppl_vae.training.stationarity import split_rhat_of_chains

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

__all__ = ["Bridge"]

MOST_RHAT = 1.1
"""Above this the chains do not agree, and no error is known."""
ITERATIONS = 1000
TOLERANCE = 1e-10


@dataclass(frozen=True, repr=False)
class Bridge:
    r"""Draws of the posterior, by HMC, and draws of a normal fitted to others of them, each weigh the other.

    .. math:: p(x) = \frac{E_q[h(u) \, p(x, u)]}{E_{p(u | x)}[h(u) \, q(u)]}, \quad
        h \propto \frac{1}{s_1 p(x, u) / p(x) + s_2 q(u)}

    Neither needs heavier tails than the other, so it is precise where importance sampling is not; but it stands on
    the chains: they begin at weighted draws of the guide, and a mode that none of them has met is not in the answer.
    Half of the chains fit the normal, the other half is weighed; its error is from how far its chains differ. An
    estimate, no bound.

    For pairs with few data or latents that all data share; of a datum's own latents in many rows at once it takes as
    many chains of each.

    Args:
        num_samples: draws of the posterior, of all chains together, and as many of the normal.
        num_chains: at least 8.
        kernel: the transition.
        warmup: transitions before the draws, in which step sizes are found.

    Raises:
        ValueError: too few chains, or draws for them; in use: discrete latents that are not summed out.

    Xiao-Li Meng, Wing Hung Wong: "Simulating ratios of normalizing constants via a simple identity", 1996.
    Quentin Gronau et al.: "A tutorial on bridge sampling", 2017.

    >>> Bridge(8000)
    Bridge(8000)
    """

    num_samples: int = 8000
    num_chains: int = field(default=32, kw_only=True)
    kernel: HMC = field(default=HMC(8), kw_only=True)
    warmup: int = field(default=200, kw_only=True)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.num_chains < 8 or self.num_chains % 2 or self.num_samples < 4 * self.num_chains or self.warmup < 1:
            raise ValueError(
                "Bridge: an even number of chains from 8 on, at least 4 draws of each, and a warm-up are required, got "
                f"num_samples={self.num_samples}, num_chains={self.num_chains}, warmup={self.warmup}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_samples})"

    def estimate(self, pair: Pair, rows: Source, seed: int, *, max_elements: int = MAX_ELEMENTS) -> Evidence:
        """Estimate log p(x) of the rows; see :func:`ppl_vae.evidence.log_evidence`."""
        plan = Plan.of(pair, rows, self.num_samples, max_elements)
        parts = [
            self._of_chunk(pair, chunk, fold(seed, type(self).__name__, place.start))
            for place, chunk in plan.row_chunks(rows)
        ]
        return parts[0] if plan.rows is None else join(parts)

    def _of_chunk(self, pair: Pair, rows: Rows, seed: int) -> Evidence:
        path = Path.of(pair, rows, "guide", fold(seed, "path"))
        chains = self._chains(path, seed)  # (draws, chains, ..., D), of v
        fitted, weighed = chains[:, ::2], chains[:, 1::2]
        normal = path.to_normal(path.to_u(fitted.flatten(0, 1)))
        proposed = normal.draw(weighed.shape[0] * weighed.shape[1], fold(seed, "normal"))
        here = normal.at(normal.of_u(path.to_u(weighed.flatten(0, 1))))
        of_posterior = here.slope.reshape(*weighed.shape[:2], *here.slope.shape[1:])
        value, error, ess = bridged(of_posterior, proposed.slope)
        apart = np.maximum(
            split_rhat_of_chains(of_posterior.cpu().numpy()), split_rhat_of_chains(chains.cpu().numpy()).max(-1)
        )
        unknown = torch.as_tensor(apart > MOST_RHAT, device=error.device)
        error = believable(error).masked_fill(unknown, math.nan)
        tail = torch.full_like(value, math.nan)
        found = Evidence(value, error, ess, tail, "estimate", repr(self), needs_khat=False)
        return replace(found, **{n: getattr(found, n).cpu() for n in ("value", "standard_error", "ess", "khat")})

    def _chains(self, path: Path, seed: int) -> Tensor:
        """Draws of the posterior, (draws, chains, ..., D)."""
        near = near_posterior(path.pair, path.rows, self.num_chains, fold(seed, "near"))
        values = {name: value.to(path.pair.device) for name, value in near.items()}
        point = path.at(path.of_values(path.pair.unconstrain(path.rows, values)[0]))
        steps, draws = StepSizes.of(point, self.kernel), []
        with isolated_rng(fold(seed, "chains"), path.pair.device):
            for _ in range(self.warmup):
                point, rate = self.kernel(path, point, 1.0, steps.now)
                steps.learn(rate)
            step_size = torch.stack(steps.logs[self.warmup // 2 :]).mean(0).exp()
            for _ in range(self.num_samples // self.num_chains):
                point, _ = self.kernel(path, point, 1.0, step_size)
                draws.append(point.v)
        return torch.stack(draws)


def bridged(of_posterior: Tensor, of_normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal bridge between two densities.

    Args:
        of_posterior: log p(x, u) - log q(u) of draws of the posterior, (draws, chains, ...).
        of_normal: the same of draws of q, (S, ...).

    Returns:
        log p(x), its standard error, and the effective number of draws of the posterior, each (...).
    """
    flat = of_posterior.flatten(0, 1)
    first, second = len(flat), len(of_normal)
    log_s1, log_s2 = math.log(first / (first + second)), math.log(second / (first + second))
    value = flat.median(0).values
    for _ in range(ITERATIONS):
        # log of p(x, u) / (s1 p(x, u) / Z + s2 q) at the draws of q, and of q / (...) at those of the posterior.
        at_q = of_normal - torch.logaddexp(log_s1 + of_normal - value, torch.full_like(of_normal, log_s2))
        at_p = -torch.logaddexp(log_s1 + flat - value, torch.full_like(flat, log_s2))
        new = at_q.logsumexp(0) - math.log(second) - (at_p.logsumexp(0) - math.log(first))
        done = bool(((new - value).abs() <= TOLERANCE * value.abs().clamp(min=1.0)).all())
        value = new
        if done:
            break
    f1, f2 = (at_q - at_q.amax(0)).exp(), (at_p - at_p.amax(0)).exp().reshape(of_posterior.shape)
    of_q = f1.var(0) / (second * f1.mean(0).square())
    mean = f2.mean((0, 1))
    of_p = f2.mean(0).var(0) / (of_posterior.shape[1] * mean.square())
    independent = f2.flatten(0, 1).var(0) / (first * mean.square())
    ess = torch.where(of_p > 0, first * independent / of_p, torch.full_like(of_p, float(first))).clamp(1.0, first)
    return value, (of_q + of_p).sqrt(), ess
