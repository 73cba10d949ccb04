"""Labels of which some are missing: the observed site and the latent one."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Categorical
from torch import Tensor

from ppl_vae.distributions.given_labels import split_labels


def sample_labels(p_y: Categorical, y: Tensor | None, *, size: int, who: str) -> Tensor:
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
    labeled: Any
    labeled, label = split_labels(y, p_y, size=size, who=who)
    with poutine.mask(mask=labeled):
        pyro.sample("label", p_y, obs=label)
    with poutine.mask(mask=~labeled):
        drawn = pyro.sample("y", p_y)
    return torch.where(labeled, label, drawn)
