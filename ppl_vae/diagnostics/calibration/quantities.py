"""Test quantities: functions of (z, x) whose rank among posterior draws is uniform if these are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.pair.draws import LogProb

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

__all__ = ["HDR", "TARP", "Kind", "Quantities", "Quantity", "Scored", "distance_to"]

Kind = Literal["latent", "quantity", "region"]
Quantity = Callable[[Any, Any], Tensor]
"""A user's: of z (S, n, ...) and x (n, ...), by site where there are several, to (S, n)."""

HDR, TARP = "highest density", "TARP"


@dataclass(frozen=True)
class Scored:
    """Latents at n simulated data: draws of the guide (S, n, ...), or the truth (1, n, ...).

    ``log_q`` is (S, n), None where the guide does not tell it of a given z; ``x`` is by site, (n, ...).
    """

    values: Mapping[str, Tensor]
    log_p: LogProb
    log_q: Tensor | None
    x: Mapping[str, Tensor]


@dataclass(frozen=True)
class Quantities:
    """All that is ranked, (S, n) by label.

    The entries of every latent; the log-likelihood, which alone sees that a guide ignores x; what a user adds; and two
    whose distribution function is an expected coverage: minus log q, whose rank is the level of the smallest region of
    highest density around the truth, and the distance to a point drawn from the prior (TARP).

    Args:
        pair: whose.
        references: a point for each simulation, (N, ...) by site, drawn from the prior.
        own: the user's.

    Sean Talts, Michael Betancourt, Daniel Simpson, Aki Vehtari, Andrew Gelman: "Validating Bayesian inference
    algorithms with simulation-based calibration", 2018. Martin Modrák, Angie Moon, Shinyoung Kim, Paul Bürkner, Niko
    Huurre, Kateřina Faltejsková, Andrew Gelman, Aki Vehtari: "Simulation-based calibration checking for Bayesian
    computation: the choice of test quantities shapes sensitivity", 2023. Pablo Lemos, Adam Coogan, Yashar Hezaveh,
    Laurence Perreault-Levasseur: "Sampling-based accuracy testing of posterior estimators for general inference", 2023.
    """

    pair: Pair
    references: Mapping[str, Tensor]
    own: Mapping[str, Quantity]

    def of(self, scored: Scored, place: slice) -> Iterator[tuple[str, Kind, Tensor]]:
        """Label, kind and values (S, n) of every quantity at the simulations of a place."""
        for name in self.pair.latents:
            value = scored.values[name]
            for entry in np.ndindex(*value.shape[2:]):
                label = f"{name}[{', '.join(map(str, entry))}]" if entry else name
                yield label, "latent", value[(slice(None), slice(None), *entry)]
        if self.pair.summed:  # p(x | z) alone is not always to be had: x may hang on what is summed out
            yield "log p(x, z)", "quantity", scored.log_p.total
        else:
            yield "log p(x | z)", "quantity", scored.log_p.likelihood
        for name, function in self.own.items():
            yield name, "quantity", _of_user(name, function, scored)
        if scored.log_q is not None:
            yield HDR, "region", -scored.log_q
        yield TARP, "region", self._distance(scored, place)

    def _distance(self, scored: Scored, place: slice) -> Tensor:
        """The squared distance from the reference of each simulation, (S, n), in standard deviations of the prior."""
        total = torch.zeros(())
        for name, site in self.pair.latents.items():
            reference = self.references[name]
            found = distance_to(reference[place], scored.values[name], discrete=site.is_discrete, like=reference)
            total = total + found
        return total


def distance_to(reference: Tensor, values: Tensor, *, discrete: bool = False, like: Tensor | None = None) -> Tensor:
    """Squared distances of values (S, n, ...) from a reference point for each datum (n, ...): (S, n), float64.

    Args:
        reference, values: see above.
        discrete: count the entries that differ, for classes have no distance.
        like: draws (N, ...), in whose standard deviations, entry by entry, distances are counted.
    """
    reference, values = reference.double(), values.double()
    if discrete:
        return (values != reference).double().flatten(2).sum(-1) if values.dim() > 2 else (values != reference).double()
    apart = values - reference
    if like is not None:
        scale = like.double().std(0)
        apart = apart / torch.where(scale > 0, scale, torch.ones_like(scale))
    return apart.square().flatten(2).sum(-1) if apart.dim() > 2 else apart.square()


def _of_user(name: str, function: Quantity, scored: Scored) -> Tensor:
    found = torch.as_tensor(function(_single(scored.values), _single(scored.x)))
    shape = tuple(scored.log_p.total.shape)
    if tuple(found.shape) != shape:
        raise ValueError(
            f"calibration: the quantity {name!r} must give a number for each draw and datum, {shape}, from latents "
            f"(S, n, ...) and data (n, ...), got {tuple(found.shape)}"
        )
    return found


def _single(values: Mapping[str, Tensor]) -> Any:
    """The value itself where there is one site."""
    return next(iter(values.values())) if len(values) == 1 else dict(values)
