r"""The path that annealing goes: from a density that can be drawn from to the posterior, by powers.

.. math:: \log f_\beta(u) = \text{base}(u) + \beta \, \text{slope}(u), \qquad 0 \le \beta \le 1

With the prior as start, base is log p(u) and slope log p(x | u); with a normal, base is its log density and slope what
log p(x, u) has more. Both values and both gradients are kept, so that a step from one temperature to the next one costs
no evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.capture.repeated import Repeated
from ppl_vae.evidence.flat import Flat
from ppl_vae.pair.scope import validation

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Pair

__all__ = ["Path", "Point", "Start"]

Start = Literal["prior", "guide"]

FULL = 50
"""Up to so many latents the normal start has a covariance of its own, else variances."""
LEAST_DRAWS = 64
"""Draws that location and scale are found from."""


@dataclass(frozen=True)
class Point:
    """Where particles stand, in coordinates v in which the start has about unit scale.

    Attributes:
        v: (S, ..., D).
        base, slope: (S, ...), float64; a slope of -inf is a point that the model excludes.
        base_gradient, slope_gradient: in v, shape of v.
    """

    v: Tensor
    base: Tensor
    slope: Tensor
    base_gradient: Tensor
    slope_gradient: Tensor

    def log_density(self, beta: Tensor | float) -> Tensor:
        """Log f at ``beta``, (S, ...)."""
        if isinstance(beta, float) and beta == 0.0:
            return self.base
        return self.base + beta * self.slope

    def gradient(self, beta: float) -> Tensor:
        """Of that, in v; 0 where there is none."""
        return (self.base_gradient + beta * self.slope_gradient).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def moved(self, accepted: Tensor, there: Point) -> Point:
        """There where ``accepted``, (S, ...), else here."""
        far = accepted.unsqueeze(-1)
        return Point(
            torch.where(far, there.v, self.v),
            torch.where(accepted, there.base, self.base),
            torch.where(accepted, there.slope, self.slope),
            torch.where(far, there.base_gradient, self.base_gradient),
            torch.where(far, there.slope_gradient, self.slope_gradient),
        )

    def chosen(self, index: Tensor) -> Point:
        """Particle ``index[s, ...]`` in the place of s."""
        far = index.unsqueeze(-1).expand_as(self.v)
        return Point(
            self.v.gather(0, far),
            self.base.gather(0, index),
            self.slope.gather(0, index),
            self.base_gradient.gather(0, far),
            self.slope_gradient.gather(0, far),
        )


@dataclass(frozen=True)
class Path:
    """The path of some rows.

    Attributes:
        pair, rows: whose posterior it leads to.
        start: where it begins.
        flat: the model's density.
        loc: (..., D), what v = 0 stands for.
        factor: u = loc + factor v; (..., D, D), or (..., D) of axes that are scaled one by one.
    """

    pair: Pair
    rows: Rows
    start: Start
    flat: Flat
    loc: Tensor
    factor: Tensor

    @cached_property
    def _repeated(self) -> Repeated:
        """A run of the model for thousands of steps: nobody changes the pair meanwhile."""
        return Repeated(self._run)

    @classmethod
    def of(cls, pair: Pair, rows: Rows, start: Start, seed: int) -> Path:
        """Find location and scale from draws of the start.

        Raises:
            ValueError: a latent is discrete and not summed out; p(x | z) is a point mass; or, where the prior is the
                start, a sum over discrete latents ties prior and likelihood.
        """
        density = pair.density(rows)
        count = max(LEAST_DRAWS, 8 * min(FULL, sum(math.prod(s.event_shape) for s in pair.latents.values())))
        by_site = drawn(pair, rows, start, count, seed)
        flat = Flat.of(pair, density, by_site)
        u = flat.joined(by_site).to(pair.device, torch.float64)
        if start == "prior":
            every = u.reshape(-1, u.shape[-1])
            low, middle, high = every.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=u.dtype, device=u.device), 0)
            return cls(pair, rows, start, flat, *(x.to(pair.dtype) for x in (middle, _positive((high - low) / 1.349))))
        return cls(pair, rows, start, flat, *_moments(u, pair.dtype))

    def to_normal(self, u: Tensor) -> Path:
        """The path from a normal with the mean and covariance of unconstrained draws, (S, ..., D)."""
        loc, factor = _moments(u.double(), self.loc.dtype)
        return replace(self, start="guide", loc=loc, factor=factor)

    @property
    def is_full(self) -> bool:
        """Has the scale correlations?"""
        return self.factor.dim() > self.loc.dim()

    def draw(self, count: int, seed: int) -> Point:
        """Draws of the start."""
        if self.start == "prior":
            return self.at(self.of_values(drawn(self.pair, self.rows, self.start, count, seed)))
        with isolated_rng(seed, self.pair.device):
            v = torch.randn(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.at(v)

    def of_values(self, by_site: dict[str, Tensor]) -> Tensor:
        """The v of unconstrained latents by site."""
        return self.of_u(self.flat.joined(by_site))

    def of_u(self, u: Tensor) -> Tensor:
        """The v of unconstrained latents in one piece."""
        away = u.to(self.loc) - self.loc
        if not self.is_full:
            return away / self.factor
        return torch.linalg.solve_triangular(self.factor, away.unsqueeze(-1), upper=False).squeeze(-1)

    def to_u(self, v: Tensor) -> Tensor:
        """The unconstrained latents in one piece."""
        moved = torch.einsum("...ij,s...j->s...i", self.factor, v) if self.is_full else self.factor * v
        return self.loc + moved

    def at(self, v: Tensor) -> Point:
        """The two values and their gradients."""
        v = v.detach()
        return Point(v, *self._repeated(v))

    def _run(self, v: Tensor) -> list[Tensor]:
        v = v.detach().requires_grad_()
        # Without checks of arguments: a step may go where a scale is 0, and is refused for its density there.
        with validation(False), torch.enable_grad():
            u = self.to_u(v)
            if self.start == "prior":
                base, slope = self.flat.parts(u)
                base_gradient = _gradient(base, v, keep=True)
                slope_gradient = _gradient(slope, v)
                base = base.detach()
            else:
                base, base_gradient = self._log_normal(v.detach()), -v.detach()
                slope = self.flat(u) - base
                slope_gradient = _gradient(slope, v) + v.detach()
        slope = slope.detach().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        return [base, slope, base_gradient, slope_gradient]

    def _log_normal(self, v: Tensor) -> Tensor:
        """The log density of u under the start."""
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1) if self.is_full else self.factor
        volume = diagonal.double().log().sum(-1)
        return -0.5 * (v.double().square().sum(-1) + v.shape[-1] * math.log(2 * math.pi)) - volume


def drawn(pair: Pair, rows: Rows, start: Start, count: int, seed: int) -> dict[str, Tensor]:
    """Unconstrained draws of the prior or of the guide, by site."""
    seed = fold(seed, start)
    if start == "prior":
        values = pair.draw_prior_values(rows, count, seed=seed)
    else:
        values = pair.draw(rows, count, seed=seed).values
    return pair.unconstrain(rows, {name: values[name] for name in pair.latents})[0]


def _moments(u: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and scale of draws, (..., D) and (..., D, D); of many latents their variances alone, (..., D)."""
    loc, size = u.mean(0), u.shape[-1]
    scale = _positive((u - loc).square().mean(0).sqrt())
    if size > FULL:
        return loc.to(dtype), scale.to(dtype)
    unit = (u - loc) / scale
    correlation = torch.einsum("s...i,s...j->...ij", unit, unit) / len(u)
    correlation = correlation + 1e-6 * torch.eye(size, dtype=u.dtype, device=u.device)
    factor = scale.unsqueeze(-1) * torch.linalg.cholesky(correlation)
    return loc.to(dtype), factor.to(dtype)


def _gradient(value: Tensor, v: Tensor, *, keep: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(v)
    (found,) = torch.autograd.grad(value.sum(), v, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(v) if found is None else found


def _positive(scale: Tensor) -> Tensor:
    """A scale of 1 where there is none."""
    return torch.where(scale.isfinite() & (scale > 0), scale, torch.ones_like(scale))
