"""A density known up to a constant, as a model without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import ImproperUniform, constraints
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.flows.domains import of_event
from ppl_vae.flows.shapes import event_shape


class _Improper(ImproperUniform):
    """The start of a latent that only its factor speaks about: it scores, and says why it cannot be drawn."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Raise."""
        raise ValueError(
            "Energy: z must come from a guide with a site of that name (FlowPosterior(..., site='z')), for nobody can "
            "draw from a density that is known only up to a constant; draws are in fit.draw(None, n), and "
            "to_inference_data takes groups=('posterior', 'sample_stats')"
        )


class Energy(PyroModule):
    r"""p(z) = exp(log_density(z)) / Z on a support, with Z unknown: what a guide is fitted to by the reverse KL.

    .. math:: L = E_q[\log\_density(z) - \log q(z)] = \log Z - KL(q \| p)

    Site "z", from an improper uniform of density 1, and the factor "energy"; no plate, no data: fit it with
    ``VariationalEM(model, guide).fit(None, steps=...)``, and ask ``fit.log_evidence(None, ImportanceWeighted(K))`` for
    log Z. Outside the support the density is 0.

    Args:
        log_density: maps z (..., *shape) to log densities (...), in nats, up to a constant. A module's parameters are
            learned with the guide's (they would raise Z without end, unless they are frozen).
        shape: the size or event shape of z.
        support: where z lives, a constraint on its entries or on all of it; the whole space by default.

    Raises:
        ValueError: in a call, densities of another shape, or a z that no guide has drawn.

    >>> import torch
    >>> model = Energy(lambda z: -z.square().sum(-1), shape=2)
    >>> model.log_prob(torch.zeros(100, 2)).shape
    torch.Size([100])
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        *,
        shape: int | Sequence[int],
        support: Constraint | None = None,
    ) -> None:
        super().__init__()
        self.log_density = log_density
        self.shape = event_shape("Energy", shape)
        self.support = None if support is None else of_event(support, len(self.shape))

    def forward(
        self,
        x: Tensor | None = None,
        *,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        num_samples: int | None = None,
    ) -> Tensor:
        """Run the model; its arguments are not used, they are the common signature.

        Returns:
            z, (..., *shape), which the guide, or another inference, must draw: an improper prior cannot.
        """
        support = of_event(constraints.real, len(self.shape)) if self.support is None else self.support
        z = pyro.sample("z", _Improper(support, (), self.shape))
        pyro.factor("energy", self.log_prob(z))
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density up to the constant, (...) in nats; -inf outside the support.

        Args:
            z: (..., *shape).
        """
        density = self.log_density(z)
        leading = z.shape[: z.dim() - len(self.shape)]
        if density.shape != leading:
            raise ValueError(
                f"Energy: log_density must map {tuple(z.shape)} to {tuple(leading)}, got {tuple(density.shape)}"
            )
        return density if self.support is None else torch.where(self.support.check(z), density, -torch.inf)
