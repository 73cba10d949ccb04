"""One start climbs by L-BFGS: for latents too many for a Hessian at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.deterministic.base_draws import base_draws
from ppl_vae.inference.deterministic.curvature import Density
from ppl_vae.inference.deterministic.minimize import WORST

__all__ = ["Ascent", "ascend", "diagonal_elbo", "diagonal_precision"]

_PROBES, _STEP = 16, 1e-4
_KEPT, _DRAWS = 12, 32


@dataclass(frozen=True)
class Ascent:
    """Where a start ended, and what it passed.

    Attributes:
        path: (M, D), the last of them the end.
        height: of the end, nats.
        arrived: did the search end of itself?
    """

    path: Tensor
    height: float
    arrived: bool


def ascend(density: Density, start: Tensor, *, max_iter: int = 2000) -> Ascent:
    """Climb from one start (D,)."""
    from scipy import optimize

    def fall(v: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.as_tensor(v, dtype=start.dtype, device=start.device).unsqueeze(0).requires_grad_()
        value = density.at(u).sum()
        (gradient,) = torch.autograd.grad(value, u)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return WORST, np.zeros_like(v)
        return -float(value.detach()), -gradient[0].double().cpu().numpy()

    passed: list[np.ndarray] = []
    options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-6}
    ended = optimize.minimize(
        fall,
        start.double().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        options=options,
        callback=lambda v: passed.append(v.copy()),
    )
    kept = [passed[i] for i in np.unique(np.geomspace(1, len(passed), _KEPT).astype(int) - 1)] if passed else []
    path = torch.as_tensor(np.stack([*kept, ended.x]), dtype=start.dtype, device=start.device)
    return Ascent(path, -float(ended.fun), ended.status != 1)


def diagonal_precision(density: Density, u: Tensor) -> Tensor:
    """The diagonal of minus the Hessian at u (D,) by random signs, floored where it is not positive.

    Michael Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990; for diagonals: Costas
    Bekas, Effrosyni Kokiopoulou, Yousef Saad, 2007.
    """
    generator = torch.Generator().manual_seed(0)
    signs = (torch.randint(2, (_PROBES, len(u)), generator=generator) * 2 - 1).to(u)
    ends = (u + torch.cat([_STEP * signs, -_STEP * signs])).requires_grad_()
    (gradient,) = torch.autograd.grad(density.at(ends).sum(), ends)
    ahead, behind = gradient.tensor_split(2)
    diagonal = -(signs * (ahead - behind)).mean(0) / (2 * _STEP)
    return diagonal.clamp_min(float(1e-3 * diagonal.abs().median().clamp_min(1e-6)))


def diagonal_elbo(density: Density, loc: Tensor, precision: Tensor) -> float:
    """The ELBO of the normal with independent entries at few draws, less what all such normals share, nats."""
    draws = base_draws(_DRAWS, len(loc), seed=0).to(loc)
    value = density.heights(loc + draws * precision.rsqrt()).mean() - 0.5 * precision.log().sum()
    return float(value) if bool(value.isfinite()) else -math.inf
