"""One block of rows on its way from the start to the posterior, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.evidence.annealing.hmc import HMC
from ppl_vae.evidence.annealing.path import Path, Point
from ppl_vae.evidence.annealing.schedule import Schedule
from ppl_vae.evidence.resampling import systematic
from ppl_vae.evidence.weights import effective_sample_size, finite, log_mean_exp

__all__ = ["Annealing", "Arrived"]

EXCLUDED_AMONG = 256
"""Draws of the start, by which it is seen whether the model excludes some."""


@dataclass(frozen=True)
class Arrived:
    """Particles at the posterior.

    Attributes:
        log_weight: (S, ...), nats; the mean of the weights is unbiased for p(x).
        ancestor: (S, ...), the particle at the start that each descends from; None without resampling.
    """

    log_weight: Tensor
    ancestor: Tensor | None = None


@dataclass(frozen=True)
class Annealing:
    """A path with a schedule, both fixed before the particles set out.

    Attributes:
        seed: of all noise.
        resample: particles are drawn anew, by weight, where the effective number of them is below this share; 0: never.
    """

    path: Path
    schedule: Schedule
    kernel: HMC
    seed: int
    resample: float = 0.0

    def stages(self) -> Iterator[tuple[float, float, Tensor]]:
        """The temperature before, the next one, and the step sizes there."""
        betas = self.schedule.betas
        for t in range(1, len(betas)):
            yield betas[t - 1], betas[t], self.schedule.step_sizes[t]

    def forward(self, count: int) -> Arrived:
        """From ``count`` draws of the start, (S, ...), to the posterior."""
        point = self.path.draw(count, fold(self.seed, "start"))
        log_weight = torch.zeros_like(point.slope)
        ancestor = _numbers(point.slope) if self.resample else None
        with isolated_rng(fold(self.seed, "forward"), self.path.pair.device):
            for before, beta, step_size in self.stages():
                log_weight = log_weight + (beta - before) * point.slope
                if ancestor is not None and (index := self._index(log_weight)) is not None:
                    point, ancestor = point.chosen(index), ancestor.gather(0, index)
                    log_weight = torch.where(self._is_poor(log_weight), log_mean_exp(log_weight), log_weight)
                point, _ = self.kernel(self.path, point, beta, step_size)
        return Arrived(log_weight, ancestor)

    def backward(self, point: Point) -> Tensor:
        """Log weights, (S, ...), of the way from draws of the posterior to the start: E[1 / w] = 1 / p(x)."""
        log_weight = torch.zeros_like(point.slope)
        with isolated_rng(fold(self.seed, "backward"), self.path.pair.device):
            for before, beta, step_size in reversed(list(self.stages())):
                point, _ = self.kernel(self.path, point, beta, step_size)
                log_weight = log_weight + (beta - before) * point.slope
        return log_weight

    def at_rest(self, point: Point, num_transitions: int) -> Point:
        """The particles after some transitions at the posterior itself."""
        with isolated_rng(fold(self.seed, "at rest"), self.path.pair.device):
            for _ in range(num_transitions):
                point, _ = self.kernel(self.path, point, 1.0, self.schedule.step_sizes[-1])
        return point

    def excludes_some(self) -> Tensor:
        """Does the model exclude draws of the start, (...) bool?"""
        return self.path.draw(EXCLUDED_AMONG, fold(self.seed, "excluded")).slope.isneginf().any(0)

    def _is_poor(self, log_weight: Tensor) -> Tensor:
        return effective_sample_size(log_weight) < self.resample * len(log_weight)

    def _index(self, log_weight: Tensor) -> Tensor | None:
        """Which particle stands where after a resampling; None where no datum needs one."""
        poor = self._is_poor(log_weight)
        if not bool(poor.any()):
            return None
        return torch.where(poor, _drawn_anew(log_weight), _numbers(log_weight))


def _numbers(like: Tensor) -> Tensor:
    count = torch.arange(len(like), device=like.device)
    return count.reshape(-1, *[1] * (like.dim() - 1)).expand(like.shape)


def _drawn_anew(log_weight: Tensor) -> Tensor:
    """Indices by systematic resampling, each datum by a number of its own, (S, ...)."""
    size = len(log_weight)
    weights = (log_weight - finite(log_weight.amax(0))).exp().reshape(size, -1).T
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    offset = torch.rand(len(weights), 1, dtype=weights.dtype, device=weights.device)
    return systematic(weights, size, offset).T.reshape(log_weight.shape)
