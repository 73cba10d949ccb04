"""The posterior of latents that the model sums out, by Bayes' rule at the other values of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.pair.execution import Execution
from ppl_vae.pair.summation import Component

__all__ = ["draw_of", "posteriors_of"]


def posteriors_of(run: Execution) -> dict[str, Tensor]:
    r"""p(c | x, z) of every summed latent at the values of a run, (*batch, C) in Pyro's shape, C its values.

    All at once: it is the derivative of the logarithm of the sum by the logarithm of a factor of that latent alone.

    .. math:: p(c_t = k \mid x) = \frac{\partial \log p(x)}{\partial \log f_t(k)}

    Source: Darwiche, "A differential approach to inference in Bayesian networks", 2003.
    """
    found: dict[str, Tensor] = {}
    for part in run.components():
        with torch.enable_grad():
            shifts = {name: _shift(part, name) for name in part.latents}
            total = part.eliminate(shifts).total
            grads = torch.autograd.grad(total.sum(), list(shifts.values()))
        found |= {name: _trimmed(grad.movedim(0, -1), part, name) for name, grad in zip(shifts, grads, strict=True)}
    return found


def _shift(part: Component, name: str) -> Tensor:
    """Zeros to be added to log p of each value of a latent, in the whole shape of its plates."""
    rank, others = part.summed.rank, part.all_plates - part.plates[name]
    sizes = [1 if i - rank in others else size for i, size in enumerate(part.shape)]
    like = part.factors[name].term
    return torch.zeros(part.size(name), *sizes, dtype=like.dtype, device=like.device, requires_grad=True)


def draw_of(run: Execution) -> dict[str, Tensor]:
    """A joint draw of every summed latent from p(c | x, z), in Pyro's shape."""
    values: dict[str, Tensor] = {}
    for part in run.components():
        for name, index in part.eliminate().draw().items():
            site: Any = run.model_trace.nodes[name]
            support = site["value"].reshape(-1, *site["fn"].event_shape)
            values[name] = _trimmed(support[index], part, name, len(site["fn"].event_shape))
    return values


def _trimmed(term: Tensor, part: Component, name: str, event_dim: int = 1) -> Tensor:
    """Without leading dimensions of size 1 that are no plate of the site's."""
    rank = max((-dim for dim in part.plates[name]), default=0)
    while term.dim() - event_dim > rank and term.shape[0] == 1:
        term = term.squeeze(0)
    return term
