"""One start climbs by L-BFGS: for latents too many for a Hessian at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.deterministic.minimize import WORST

__all__ = ["Ascent", "ascend"]

_PROBES = 16


@dataclass(frozen=True)
class Ascent:
    """Where a start ended: ``u`` (D,), its ``height`` in nats, the diagonal of the precision there (D,), has it
    ``arrived``?
    """

    u: Tensor
    height: float
    precision: Tensor
    arrived: bool


def ascend(log_p: Callable[[Tensor], Tensor], start: Tensor, *, max_iter: int = 2000) -> Ascent:
    """Climb ``log_p``, (S, D) -> (S,), from one start (D,)."""
    from scipy import optimize

    def fall(v: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.as_tensor(v, dtype=start.dtype, device=start.device).unsqueeze(0).requires_grad_()
        value = log_p(u).sum()
        (gradient,) = torch.autograd.grad(value, u)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return WORST, np.zeros_like(v)
        return -float(value), -gradient[0].double().cpu().numpy()

    options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-6}
    ended = optimize.minimize(fall, start.double().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    u = torch.as_tensor(ended.x, dtype=start.dtype, device=start.device)
    return Ascent(u, -float(ended.fun), _diagonal(log_p, u), ended.status != 1)


def _diagonal(log_p: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """The diagonal of minus the Hessian by random signs, floored where it is not positive.

    Michael Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990; for diagonals: Costas
    Bekas, Effrosyni Kokiopoulou, Yousef Saad, 2007.
    """
    generator = torch.Generator().manual_seed(0)
    signs = (torch.randint(2, (_PROBES, len(u)), generator=generator) * 2 - 1).to(u)
    total = torch.zeros_like(u)
    step = 1e-4
    for sign in signs:
        ends = (u + torch.stack([step * sign, -step * sign])).requires_grad_()
        (gradient,) = torch.autograd.grad(log_p(ends).sum(), ends)
        total -= sign * (gradient[0] - gradient[1]) / (2 * step)
    diagonal = total / _PROBES
    floor = 1e-3 * diagonal.abs().median().clamp_min(1e-6)
    return diagonal.clamp_min(float(floor))
