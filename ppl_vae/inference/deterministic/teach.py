"""A guide that makes its normal laws in a way of its own is brought near a given normal first.

Its parameters are not known one by one, so what is fitted is its law as a whole: the parameters minimize the divergence
of the law from the normal, in closed form and without the model. The curvature of that divergence makes coordinates in
which the parameters are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.deterministic.curvature import safeguarded
from ppl_vae.inference.deterministic.minimize import WORST, minimize
from ppl_vae.pair.fixed_noise import FixedNoise
from ppl_vae.pair.law import Law

__all__ = ["MOST", "scale_of", "teach"]

MOST = 512
"""Of more parameters than these no curvature is taken."""


def teach(
    noise: FixedNoise, free: Mapping[str, Tensor], loc: Tensor, precision: Tensor, known: Sequence[str]
) -> Tensor:
    """Move ``free`` leaves until the laws that are not ``known`` are near N(loc, precision^-1); return a scale of them.

    Args:
        noise: the pair's runs.
        free: the leaves by name.
        loc, precision: (D,), and (D, D) or (D,).
        known: sites whose laws are made of other parameters.

    Returns:
        a factor (P, P) of the inverse curvature at the end, P the numbers of all leaves; (P,) ones where there are more
        than 512, or nothing to be taught.
    """
    leaves = list(free.values())
    count = sum(leaf.numel() for leaf in leaves)
    ones = torch.ones(count, dtype=loc.dtype, device=loc.device)
    target = _targets(noise, loc, precision, known)
    if not target or not leaves:
        return ones

    def divergence() -> Tensor:
        laws = noise.laws_now()
        return torch.stack([_kl(laws[name], *of) for name, of in target.items()]).sum()

    def function(v: np.ndarray) -> tuple[float, np.ndarray]:
        _put(leaves, torch.as_tensor(v, dtype=loc.dtype, device=loc.device))
        value = divergence()
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        flat = _flat(leaves, found).double().cpu().numpy()
        if not np.isfinite(flat).all() or not bool(value.isfinite()):
            return WORST, np.zeros_like(v)
        return float(value.detach()), flat

    with noise.scope():
        start = torch.cat([leaf.detach().flatten() for leaf in leaves]).double().cpu().numpy()
        minimize(function, start, max_iter=500, tol=1e-4)
        return scale_of(divergence(), leaves) if count <= MOST else ones


def _targets(
    noise: FixedNoise, loc: Tensor, precision: Tensor, known: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    found, place = {}, 0
    for name, size in noise.sizes.items():
        part = slice(place, place + size)
        place += size
        if name not in known:
            own = torch.diag(precision[part]) if precision.dim() == 1 else precision[part, part]
            found[name] = (loc[part], own)
    return found


def _kl(law: Law, loc: Tensor, precision: Tensor) -> Tensor:
    """KL(law || N(loc, precision^-1)) less what is constant, nats; entries of separate rows are independent."""
    apart = law.base.loc.reshape(-1) - loc
    square = apart @ precision @ apart
    if not law.has_covariance:
        scale = law.base.scale.reshape(-1)
        return 0.5 * (square + (precision.diagonal() * scale.square()).sum()) - scale.log().sum()
    covariance = law.base.covariance_matrix
    dim = covariance.shape[-1]
    each = covariance.reshape(-1, dim, dim)
    blocks = torch.stack([precision[i * dim : (i + 1) * dim, i * dim : (i + 1) * dim] for i in range(len(each))])
    return 0.5 * (square + (blocks * each).sum() - torch.logdet(each).sum())


def scale_of(value: Tensor, leaves: list[Tensor]) -> Tensor:
    """The factor (P, P) of the inverse of the curvature of a value in all numbers of the leaves together."""
    gradient = _flat(leaves, torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True))
    rows = []
    for entry in gradient:
        found = torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True) if entry.requires_grad else ()
        rows.append(_flat(leaves, found or [None] * len(leaves)))
    curvature = torch.stack(rows).detach()
    # What the value says nothing of (the divergence: parameters of the model) keeps its own unit.
    idle = curvature.abs().sum(1) == 0
    curvature = curvature + torch.diag(idle.to(curvature))
    return safeguarded(((curvature + curvature.T) / 2).unsqueeze(0))[0][0]


def _put(leaves: list[Tensor], flat: Tensor) -> None:
    with torch.no_grad():
        for leaf, part in zip(leaves, flat.split([leaf.numel() for leaf in leaves]), strict=True):
            leaf.copy_(part.reshape(leaf.shape))


def _flat(leaves: list[Tensor], found: Sequence[Tensor | None]) -> Tensor:
    zeros = [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True)]
    return torch.cat([part.reshape(-1) for part in zeros])
