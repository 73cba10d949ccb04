r"""The covariance that a mean-field fit leaves out, from how its means answer to a push.

Where log p(x, u) is tilted by :math:`t^T u`, the means of the best q move by their covariance under the posterior
times t.
At fixed noise the best parameters are the minimum of a smooth function with Hessian H, so that answer is known:

.. math:: \widehat{Cov}(u) = J H^{-1} J^T, \qquad J = \partial m_\phi / \partial \phi

with H of -ELBO. It is exact for a normal posterior, whose means and covariance a mean-field fit then both has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.inference.deterministic.base_draws import base_draws
from ppl_vae.inference.deterministic.beginning import Beginning
from ppl_vae.inference.deterministic.blocks import blocks_of
from ppl_vae.inference.deterministic.curvature import safeguarded
from ppl_vae.inference.deterministic.links import links
from ppl_vae.inference.deterministic.objective import Chart, Objective
from ppl_vae.pair import pair_of
from ppl_vae.pair.fixed_noise import FixedNoise, require_fixed_noise

if TYPE_CHECKING:
    from ppl_vae.pair import Fitted, Pair

__all__ = ["LinearResponse", "linear_response"]

MOST = 2000
"""Of more parameters than these no Hessian is made."""
_STEP = 1e-4  # in standard deviations of the guide


@dataclass(frozen=True)
class LinearResponse:
    """Means and covariance of the unconstrained latents u.

    Attributes:
        names: of the D entries: the guide's sites, with a number where a site has several.
        mean: (D,) the guide's.
        covariance: (D, D), corrected.
        guide_sd: (D,) the guide's own standard deviations.
    """

    names: tuple[str, ...]
    mean: Tensor
    covariance: Tensor
    guide_sd: Tensor

    @property
    def sd(self) -> Tensor:
        """(D,) corrected."""
        return self.covariance.diagonal().sqrt()

    @property
    def correlation(self) -> Tensor:
        """(D, D)."""
        return self.covariance / (self.sd.unsqueeze(-1) * self.sd)

    def sample(self, num_samples: int, *, seed: int = 0) -> Tensor:
        """Draws (num_samples, D) of the normal with these moments, in the unconstrained space."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(num_samples, len(self.mean), dtype=self.mean.dtype, generator=generator)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).T

    def __repr__(self) -> str:
        rows = [
            f"  {name:<{max(map(len, self.names))}} {m: .4g} ± {sd:.3g} (the guide says {own:.3g})"
            for name, m, sd, own in zip(self.names, self.mean, self.sd, self.guide_sd, strict=True)
        ]
        return "\n".join(["LinearResponse (unconstrained)", *rows])


def linear_response(pair: Pair | Fitted, data: Any, *, num_draws: int = 1024, seed: int = 0) -> LinearResponse:
    """Correct the covariance of a fit that has converged.

    Args:
        pair: a Pair, or a Fit, at the optimum of its ELBO (``fit.certificate.converged``).
        data: the rows of the fit.
        num_draws: fixed draws of the Hessian.
        seed: of these.

    Raises:
        ValueError: the guide's noise cannot be fixed; its parameters are not known one by one, or are more than 2000;
            the ELBO curves up: this is no optimum.

    Ryan Giordano, Martin Ingram, Tamara Broderick: "Black Box Variational Inference with a Deterministic Objective:
    Faster, More Accurate, and Even More Black Box", 2024.
    """
    pair = pair_of(pair)
    batch = pair.as_batch(data)
    require_fixed_noise(pair, batch)
    noise = FixedNoise(pair, batch)
    known = links(noise)
    if missing := sorted(set(noise.sizes) - set(known)):
        raise ValueError(
            f"linear_response: locations and scales that are parameters are required, but the guide makes those of "
            f"{', '.join(map(repr, missing))} in a way of its own"
        )
    mean, covariance = noise.moments()
    blocks = blocks_of(noise, known, Beginning(mean, torch.linalg.inv(covariance), starts=0))
    linked = {leaf.name for link in known.values() for leaf in link.leaves.values()}
    # Parameters of the model are held: what answers to the push is the posterior at these.
    free = {name: leaf for name, leaf in pair.parameters.of("phi").items() if name not in linked}
    chart = Chart(blocks, free, torch.ones(sum(leaf.numel() for leaf in free.values())).to(mean))
    if chart.size > MOST:
        raise ValueError(f"linear_response: at most {MOST} parameters are required, got {chart.size}")
    draws = base_draws(num_draws, noise.noise_dim, seed=fold(seed, "linear response") % 2**31).to(mean)
    hessian = _hessian(Objective(noise, chart, draws), noise, chart.size).to(mean)
    factor, definite = safeguarded(hessian.unsqueeze(0))
    if not bool(definite[0]):
        raise ValueError("linear_response: an optimum of the ELBO is required, but it curves up here; fit it first")
    jacobian = torch.autograd.functional.jacobian(
        lambda v: torch.cat(_locs(chart, v)), torch.zeros(chart.size).to(mean)
    )
    root = jacobian @ factor[0]
    names = tuple(f"{n}[{i}]" if size > 1 else n for n, size in noise.sizes.items() for i in range(size))
    corrected = (root @ root.T).cpu().double()
    return LinearResponse(names, mean.cpu().double(), corrected, covariance.diagonal().sqrt().cpu().double())


def _locs(chart: Chart, v: Tensor) -> list[Tensor]:
    """The location of each block at coordinates v, as a parameter has it: unconstrained."""
    parts = v.split(chart.sizes)
    found = []
    for block, part in zip(chart.blocks, parts, strict=False):
        leaf = block.link.leaves["loc"]
        found.append(block.leaves(part)[leaf.name].reshape(-1))
    return found


def _hessian(objective: Objective, noise: FixedNoise, size: int) -> Tensor:
    """Of -ELBO in the chart's coordinates, (P, P), by central differences of gradients."""
    rows = []
    with noise.scope():
        for unit in np.eye(size):
            rows.append((objective(_STEP * unit)[1] - objective(-_STEP * unit)[1]) / (2 * _STEP))
        objective(np.zeros(size))  # the parameters are left where they were
    found = torch.from_numpy(np.stack(rows))
    return (found + found.T) / 2
