"""Free parameters in units of the ELBO's own curvature: those of the model come in the units of its columns."""

from __future__ import annotations

import numpy as np
import torch

from ppl_vae.inference.deterministic.objective import Chart, Objective
from ppl_vae.inference.deterministic.teach import MOST, scale_of

__all__ = ["rescale"]

_DRAWS = 32


def rescale(objective: Objective, v: np.ndarray) -> np.ndarray:
    """Give an objective a chart whose free coordinates are 0, and alike, where v is; return v there.

    A slope of a column of a millionth hardly moves the ELBO at all; in its own unit neither a minimizer nor a Newton
    decrement would see what it has to gain. The curvature is measured at few draws, and where there is none (more than
    512 parameters, a model without second derivatives) coordinates stay as they are.

    Args:
        objective: at fixed draws; its chart is replaced.
        v: coordinates in the chart before.
    """
    chart, noise = objective.chart, objective.noise
    count = sum(leaf.numel() for leaf in chart.free.values())
    if not 0 < count <= MOST:
        return v
    at = torch.as_tensor(v, dtype=objective.draws.dtype, device=objective.draws.device)
    objective.place(chart.leaves(at))
    try:
        placed = noise.at_noise(objective.draws[:_DRAWS])
        scale = scale_of((placed.log_q - placed.log_p).mean(), list(chart.free.values()))
    except RuntimeError:  # "derivative ... is not implemented": of the second order; or a matrix without a factor
        return v
    objective.chart = Chart(chart.blocks, chart.free, scale)
    return np.concatenate([v[: len(v) - count], np.zeros(count)])
