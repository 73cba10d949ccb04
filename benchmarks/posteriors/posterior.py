"""What a posterior is: a Pyro model, its data, the coordinates of the reference, and what the reference says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

Data = tuple[Tensor, ...]


def double(numbers: Any) -> Tensor:
    """Numbers of a file as a float64 tensor."""
    return torch.tensor(numbers, dtype=torch.float64)


def product(x: Tensor, weights: Tensor) -> Tensor:
    """``x @ weights``: (N,) for weights (D,), and for many draws of them, (S, 1, D), all at once (S, N).

    ``(x * weights).sum(-1)`` is the same, and holds S N D numbers.
    """
    return (weights @ x.mT).reshape(*weights.shape[:-2], len(x))


@dataclass(frozen=True)
class Reference:
    """What the file says of a posterior, in its unconstrained coordinates; D of them.

    Attributes:
        mean, sd: (D,).
        cov: (D, D).
        mcse: (D,) the Monte Carlo error of the mean, as a share of the sd (the draws of the file are thinned to 10,000
            nearly independent ones, and its own figure is of the constrained value).
        log_evidence, error: log Z of the Pyro model in nats, and its Monte Carlo error.
        matched_gap: log Z less the ELBO of the normal that has the mean and the covariance, nats; None: not in a file.
    """

    mean: Tensor
    sd: Tensor
    cov: Tensor
    mcse: Tensor
    log_evidence: float
    error: float
    matched_gap: float | None


@dataclass(frozen=True)
class Posterior:
    """A plain Pyro model with its data and what is known of its posterior.

    Attributes:
        name: the file's, and a short one for tables.
        model: a Pyro model; called with the data.
        of_file: the arguments of the model out of the file's ``data``; axis 0 is the row wherever there are rows.
        supports: of each latent site, in the order of the reference's coordinates. Those are the unconstrained values
            of the sites (log of what is positive, logit of a share), one after another.
        constant: log Z of the Pyro model less that of the file, nats, for a density that the file leaves without its
            constant; ``because`` says which.
        gap_limit: the most that the ELBO may lie below log Z, where it is not the moment-matched gap + 0.02.
        seconds_limit: of one fit.
        has_rows: whether the model has a plate over the rows of its data; else the model holds its data itself.
        guide_is_enough: whether means and sds of the guide's own draws are to be right; else a full-rank normal is
            known to be too narrow, and it is weighted draws that are to be.
    """

    name: str
    file: str
    model: Callable[..., Any]
    of_file: Callable[[Mapping[str, Any]], Data]
    supports: Mapping[str, Constraint]
    constant: float = 0.0
    because: str = ""
    gap_limit: float | None = None
    seconds_limit: float = 1.5
    has_rows: bool = True
    guide_is_enough: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)  # how many coordinates a site has, where not one

    def read(self, folder: Path) -> dict[str, Any]:
        """The file.

        Raises:
            FileNotFoundError: there is none in this folder.
        """
        found: dict[str, Any] = json.loads((folder / self.file).read_text())
        return found

    def data(self, file: Mapping[str, Any]) -> Data:
        """The model's arguments, float64."""
        return self.of_file(file["data"])

    def bind(self, data: Data) -> tuple[Callable[..., Any], Data | None]:
        """What is fitted: the model and its data, or the model of this data and None where there are no rows."""
        return (self.model, data) if self.has_rows else (partial(self.model, *data), None)

    def reference(self, file: Mapping[str, Any]) -> Reference:
        """Moments and evidence, the latter with the constant of the Pyro model."""
        moments, evidence = file["gaussian_diagnostics_unconstrained"], file["reference_evidence"]
        draws = file["reference"]["n_draws"]
        sd = double(moments["sd"])
        return Reference(
            double(moments["mean"]),
            sd,
            double(moments["cov"]),
            torch.full_like(sd, draws**-0.5),
            evidence["log_evidence"] + self.constant,
            evidence["mc_se"],
            file["gaussian_guide_reference"]["fullrank_moment_matched"]["elbo_gap_nats"],
        )

    def coordinates(self, values: Mapping[str, Tensor]) -> Tensor:
        """The reference's coordinates (S, D) of the sites' values, (S, ...) each."""
        parts = []
        for name, support in self.supports.items():
            u = biject_to(support).inv(values[name])
            parts.append(u.reshape(len(u), -1))
        return torch.cat(parts, -1)

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The sites' values, (S,) or (S, size), at coordinates (S, D); and log |dz/du|, (S,), nats."""
        pieces = u.split([self.sizes.get(name, 1) for name in self.supports], -1)
        values, log_det = {}, u.new_zeros(len(u))
        for (name, support), piece in zip(self.supports.items(), pieces, strict=True):
            transform = biject_to(support)
            value = transform(piece)
            log_det = log_det + transform.log_abs_det_jacobian(piece, value).reshape(piece.shape).sum(-1)
            values[name] = value if name in self.sizes else value.squeeze(-1)
        return values, log_det
