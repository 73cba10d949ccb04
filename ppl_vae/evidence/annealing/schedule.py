"""Temperatures and step sizes, found in a shorter run before, so that those of the run itself are fixed.

An estimate is unbiased as long as its kernels do not depend on its own particles; a run that tunes itself is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.evidence.annealing.hmc import HMC
from ppl_vae.evidence.annealing.path import Path, Point
from ppl_vae.evidence.annealing.step_sizes import StepSizes

__all__ = ["Schedule", "tuned"]

LEAST_PILOT, PILOT_SHARE = 50, 4
"""Temperatures of the run before: a quarter of the run's, at least so many."""
FLOOR = 0.05
"""No part of the path is passed more than 1 / FLOOR times faster than the mean."""
SMOOTH = 5
"""Step sizes are means over so many temperatures to each side."""


@dataclass(frozen=True)
class Schedule:
    """Where a run stops, and by what steps it moves there.

    Attributes:
        betas: T + 1 inverse temperatures from 0 to 1.
        step_sizes: (T + 1, ...), of each datum.
    """

    betas: list[float]
    step_sizes: Tensor


def tuned(path: Path, kernel: HMC, num_temperatures: int, num_particles: int, seed: int) -> Schedule:
    r"""Temperatures at equal distances along the path, and step sizes that are accepted as often as asked for.

    The distance is :math:`\int \sqrt{Var_\beta(\text{slope})} \, d\beta`, the mean over the data: with it equal from
    step to step the variance of a log weight is smallest.

    Andrew Gelman, Xiao-Li Meng: "Simulating normalizing constants: from importance sampling to bridge sampling to path
    sampling", 1998.
    """
    count = max(LEAST_PILOT, num_temperatures // PILOT_SHARE)
    power = 4 if path.start == "prior" else 1  # the likelihood of draws of the prior spreads most by far
    pilot = [(t / count) ** power for t in range(count + 1)]
    point = path.draw(num_particles, fold(seed, "start"))
    sizes, speeds = StepSizes.of(point, kernel), [_speed(point)]
    with isolated_rng(fold(seed, "pilot"), path.pair.device):
        for beta in pilot[1:]:
            point, rate = kernel(path, point, beta, sizes.now)
            sizes.learn(rate)
            speeds.append(_speed(point))
    steps = _smoothed(torch.stack([sizes.logs[0], *sizes.logs]))
    at = torch.tensor(pilot, dtype=torch.float64)
    betas = _equally_spaced(at, torch.tensor(speeds, dtype=torch.float64), num_temperatures)
    return Schedule(betas.tolist(), _between(at, steps, betas).exp())


def _speed(point: Point) -> float:
    """The sd of the slope over the particles, the mean over the data; of finite ones alone."""
    slope = point.slope.reshape(len(point.slope), -1)
    finite = slope.isfinite()
    number = finite.sum(0).clamp(min=1)
    kept = torch.where(finite, slope, 0.0)
    mean = kept.sum(0) / number
    variance = (torch.where(finite, kept - mean, 0.0)).square().sum(0) / (number - 1).clamp(min=1)
    return float(variance.sqrt().mean())


def _equally_spaced(at: Tensor, speeds: Tensor, count: int) -> Tensor:
    width = at.diff()
    length = width * (speeds[1:] + speeds[:-1]) / 2
    total = length.sum()
    length = length + FLOOR * (total if total > 0 else 1.0) * width
    reached = torch.cat([length.new_zeros(1), length.cumsum(0)])
    wanted = torch.linspace(0, 1, count + 1, dtype=at.dtype) * reached[-1]
    found = _between(reached, at, wanted)
    found[0], found[-1] = 0.0, 1.0
    return found


def _between(x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
    """Y at the wanted x, linearly between the given ones; x ascends."""
    right = torch.searchsorted(x, wanted).clamp(1, len(x) - 1)
    left = right - 1
    share = ((wanted - x[left]) / (x[right] - x[left])).clamp(0, 1)
    share = share.reshape(-1, *[1] * (y.dim() - 1)).to(y)
    return y[left] + share * (y[right] - y[left])


def _smoothed(values: Tensor) -> Tensor:
    """Means over neighbours along axis 0."""
    total = torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
    last = len(values)
    return torch.stack([_mean(total, max(0, i - SMOOTH), min(last, i + SMOOTH + 1)) for i in range(last)])


def _mean(total: Tensor, begin: int, end: int) -> Tensor:
    return (total[end] - total[begin]) / (end - begin)
