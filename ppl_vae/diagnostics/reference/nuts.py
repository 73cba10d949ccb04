"""Chains of Pyro's No-U-Turn sampler on a pair's own density of unconstrained latents.

The kernel of Pyro is driven by hand, as ``pyro.infer.MCMC`` drives it in one process (a test holds the draws equal, bit
by bit): that class sets up the process's loggers, and starts processes where it finds cores for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.capture.repeated import Repeated
from ppl_vae.evidence.flat import Flat
from ppl_vae.pair.scope import validation

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Pair

__all__ = ["Chain", "Energy", "Settings", "run"]

DENSE = 50
"""Up to so many latents the mass matrix has correlations: a few hundred draws of a warm-up tell those of no more."""
RADIUS = 2.0
"""Starts away from the guide are uniform within this distance of 0 in every unconstrained coordinate, as in Stan."""
TRIES = 100


@dataclass(frozen=True)
class Settings:
    """How a chain is run.

    Attributes:
        num_samples: draws that are kept.
        warmup: transitions before them, in which step size and mass matrix are found.
        target_accept: the rate of acceptance that the step size is tuned to.
    """

    num_samples: int
    warmup: int
    target_accept: float


@dataclass(frozen=True)
class Chain:
    """Draws of the posterior from one start.

    Attributes:
        u: (S, D) unconstrained latents in one piece, float64, CPU.
        diverging: (S,) bool, the transitions whose energy ran away.
        gradients: how many were taken in all.
    """

    u: Tensor
    diverging: Tensor
    gradients: int


class Energy:
    """Minus log p(x, u) of all latents in one piece, as Pyro's samplers ask for it.

    Positions and sums are of float64; the pair runs in its own precision. After some hundred calls the run is a graph,
    compared with the pair's own run first.

    Args:
        pair: whose density; its parameters are held.
        rows: the data.
        like: unconstrained latents by site, (S, ...), whose shapes count.

    Raises:
        ValueError: a latent is discrete, and not summed out; or p(x | z) is a point mass (a flow).
    """

    def __init__(self, pair: Pair, rows: Rows, like: Mapping[str, Tensor]) -> None:
        self.flat = Flat(
            pair.density(rows), {name: tuple(value.shape[1:]) for name, value in like.items()}, 0, pair.dtype
        )
        self.calls = 0
        self._repeated = Repeated(self._run)

    def __call__(self, z: Mapping[str, Tensor]) -> Tensor:
        """The energy at ``z["u"]``, (D,): a number whose gradient is the slope that was found with it."""
        self.calls += 1
        u = z["u"]
        energy, slope = self._repeated(u.detach())
        return energy + (slope * (u - u.detach())).sum()  # the second term is 0, and has the gradient

    def is_finite(self, u: Tensor) -> bool:
        """Are the energy and all slopes numbers there?"""
        return all(bool(part.isfinite().all()) for part in self._run(u))

    def _run(self, u: Tensor) -> list[Tensor]:
        # Without checks of arguments: a trajectory may go where a scale is 0, and turns back for its density there.
        with validation(False), torch.enable_grad():
            u = u.detach().requires_grad_()
            energy = -self.flat(u.unsqueeze(0)).sum()  # (1,), or (1, N) of rows that have nothing in common
            (slope,) = torch.autograd.grad(energy, u)
        return [energy.detach(), slope]


def run(pair: Pair, energy: Energy, start: Tensor | None, settings: Settings, *, seed: int) -> Chain:
    """Run one chain.

    Args:
        pair: whose scope the chain is run in.
        energy: what is sampled from.
        start: (D,) unconstrained; None for a place that has nothing to do with the guide.
        settings: how.
        seed: of all noise.

    Raises:
        ValueError: the density is infinite or not a number at every place that was tried as a start.

    Matthew Hoffman, Andrew Gelman: "The No-U-Turn sampler: adaptively setting path lengths in Hamiltonian Monte Carlo",
    2014. Pyro's is that of Michael Betancourt: "A conceptual introduction to Hamiltonian Monte Carlo", 2017.
    """
    before = energy.calls
    # In the pair's scope, since the sampler draws by pyro.sample: no handler of a caller's sees it.
    with pair.scope(), validation(False), isolated_rng(fold(seed, "chain"), pair.device), torch.enable_grad():
        place = _start(pair, energy, start)
        draws, diverging = _transitions(energy, place, settings)
    return Chain(draws, diverging, energy.calls - before)


def _transitions(energy: Energy, start: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    from pyro.infer import NUTS

    dense = start.numel() <= DENSE
    kernel: Any = NUTS(potential_fn=energy, full_mass=dense, target_accept_prob=settings.target_accept)
    kernel.initial_params = {"u": start}
    kernel.setup(settings.warmup)
    params, kept = kernel.initial_params, []
    for number in range(settings.warmup + settings.num_samples):
        params = kernel.sample(params)
        if number >= settings.warmup:
            kept.append(params["u"].detach().clone())
    diverging = torch.zeros(settings.num_samples, dtype=torch.bool)
    diverging[kernel.diagnostics()["divergences"]] = True
    kernel.cleanup()
    return torch.stack(kept).cpu(), diverging


def _start(pair: Pair, energy: Energy, start: Tensor | None) -> Tensor:
    """A place with a finite density: the one given, or one drawn about it, or about 0."""
    center = torch.zeros(energy.flat.size) if start is None else start
    center = center.to(pair.device, torch.float64)
    if start is not None and energy.is_finite(center):
        return center
    for _ in range(TRIES):
        place = center + RADIUS * (2 * torch.rand_like(center) - 1)
        if energy.is_finite(place):
            return place
    raise ValueError(
        f"reference: a place where log p(x, z) and its gradient are finite is required for a chain to begin at, and "
        f"none of {TRIES} within {RADIUS} of {'0' if start is None else 'a draw of the guide'} in unconstrained "
        "coordinates has them; pair.log_joint(data, values) says which site is not finite"
    )
