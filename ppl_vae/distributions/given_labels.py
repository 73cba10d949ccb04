"""Class labels of which some are missing."""

from __future__ import annotations

import torch
from pyro.distributions import Categorical
from torch import Tensor

UNLABELED = -1
"""What stands for a missing label."""


def split_labels(y: Tensor, classes: Categorical, *, size: int, who: str) -> tuple[Tensor, Tensor]:
    """Which rows have a label, and the labels with 0 for those that are missing.

    Args:
        y: (N,) long, -1 where a label is missing.
        classes: a distribution over the K classes; a label is checked if it validates.
        size: N.
        who: whose error it is.

    Returns:
        (N,) boolean and (N,) long.

    Raises:
        ValueError: y of another shape or type; under validation, a label outside -1 .. K - 1.

    >>> split_labels(torch.tensor([2, -1]), Categorical(torch.ones(3)), size=2, who="model")
    (tensor([ True, False]), tensor([2, 0]))
    """
    if y.shape != (size,) or y.dtype != torch.long:
        raise ValueError(f"{who}: y must be ({size},) long, -1 where unlabeled, got {tuple(y.shape)} of {y.dtype}")
    labeled = y != UNLABELED
    label = torch.where(labeled, y, 0)
    if classes._validate_args:
        _require_classes(label, classes, who)
    return labeled, label


def _require_classes(label: Tensor, classes: Categorical, who: str) -> None:
    try:
        # By torch's own check, which a captured step leaves out: a comparison here would keep the step from a graph.
        classes._validate_sample(label)
    except ValueError:
        highest = classes.param_shape[-1] - 1
        wrong = sorted({int(i) for i in label if not 0 <= i <= highest})
        raise ValueError(
            f"{who}: labels must be -1 (unlabeled) or in 0 .. {highest}, got {', '.join(map(str, wrong[:5]))}"
        ) from None
