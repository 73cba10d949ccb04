"""A rung that was reached: its fit, and the parameters that it ended with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.inference.deterministic.solution import Solution
from ppl_vae.inference.ladder.rung import Rung
from ppl_vae.result import Fit

__all__ = ["Reached"]


@dataclass(frozen=True)
class Reached:
    """A fit of one family.

    Attributes:
        rung: what it is worth.
        fit: with its pair; the model in it is every rung's.
        solution: what was found on the way.
        leaves: the parameters as the fit left them: later rungs move those of the model.
    """

    rung: Rung
    fit: Fit
    solution: Solution
    leaves: dict[str, Tensor]

    @classmethod
    def of(cls, name: str, fit: Fit, solution: Solution, seconds: float) -> Reached:
        """Keep a fit that has just ended."""
        certificate = fit.certificate
        assert certificate is not None
        leaves = {name: leaf.detach().clone() for name, leaf in fit.parameters.leaves.items()}
        return cls(Rung.of(name, str(fit.config["guide"]), certificate, seconds), fit, solution, leaves)

    @property
    def dim(self) -> int:
        """How many latent numbers the model has."""
        return len(self.solution.beginning.loc)

    @property
    def height(self) -> float:
        """Its ELBO in nats; minus infinity where that is no number."""
        value = self.solution.fresh.value
        return value if math.isfinite(value) else -math.inf

    @property
    def has_theta(self) -> bool:
        """Has the model parameters that are fitted beside the guide's?"""
        return any(group != "phi" for group in self.fit.parameters.group.values())

    def put_back(self) -> Reached:
        """Give the pair the parameters that this fit ended with."""
        with torch.no_grad():
            for name, leaf in self.fit.parameters.leaves.items():
                leaf.copy_(self.leaves[name])
        return self
