"""Baselines that several draws give each other: of draw k, what the others make of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.objectives.objective import Objective


def require_two(objective: Objective) -> None:
    """Raise ValueError where a draw has no others."""
    who, count = type(objective).__name__, objective.num_particles
    if count < 2:
        raise ValueError(f"{who}: num_particles must be at least 2, for draws are each other's baseline; got {count}")


def mean_of_others(log_w: Tensor) -> Tensor:
    """The mean of the other draws' log weights: (K, B) to (K, B), nats."""
    return (log_w.sum(0) - log_w) / (len(log_w) - 1)


def bound_of_others(log_w: Tensor) -> Tensor:
    r"""The bound log 1/K Σ w with draw k's weight replaced by the geometric mean of the others: (K, B), nats."""
    count = len(log_w)
    own = torch.eye(count, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    replaced = torch.where(own, mean_of_others(log_w).unsqueeze(1), log_w.unsqueeze(0))  # [k, j]: w_j, for k without k
    return torch.logsumexp(replaced, 1) - math.log(count)
