"""Labels of which some are missing: the observed site and the latent one."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

UNLABELED = -1


def sample_labels(p_y: TorchDistribution, y: Tensor | None, *, size: int, who: str) -> Tensor:
    """Observe the labels that are there, and draw the others; inside the data plate.

    Sites: "label", observed, masked where there is none; "y", latent, masked where there is one. Without y there is
    only "y".

    Args:
        p_y: the class prior, with no batch.
        y: (N,) long, -1 where a label is missing; or None.
        size: N.
        who: whose error it is.

    Returns:
        The labels, given or drawn, (..., N) long.

    Raises:
        ValueError: y of another shape or type; under validation, a label outside -1 .. K - 1.
    """
    if y is None:
        return pyro.sample("y", p_y)
    require_labels(y, size, who=who)
    labeled: Any = y != UNLABELED
    label = torch.where(labeled, y, 0)
    validate_labels(p_y, label, who=who)
    with poutine.mask(mask=labeled):
        pyro.sample("label", p_y, obs=label)
    with poutine.mask(mask=~labeled):
        drawn = pyro.sample("y", p_y)
    return torch.where(labeled, label, drawn)


def require_labels(y: Tensor, size: int, *, who: str) -> None:
    """Raise ValueError if y is not (N,) long."""
    if y.shape != (size,) or y.dtype != torch.long:
        raise ValueError(f"{who}: y must be ({size},) long, -1 where unlabeled, got {tuple(y.shape)} of {y.dtype}")


def validate_labels(p_y: TorchDistribution, label: Tensor, *, who: str) -> None:
    """Raise ValueError for a label outside 0 .. K - 1, where Pyro validates arguments."""
    if not p_y._validate_args:
        return
    try:
        # By torch's own check, which a captured step leaves out: a comparison here would keep the step from a graph.
        p_y._validate_sample(label)
    except ValueError:
        classes = p_y.probs.shape[-1]
        wrong = sorted({int(i) for i in label if not 0 <= i < classes})
        raise ValueError(
            f"{who}: labels must be -1 (unlabeled) or in 0 .. {classes - 1}, got {', '.join(map(str, wrong[:5]))}"
        ) from None
