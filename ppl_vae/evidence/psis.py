"""Pareto smoothed importance weights: the greatest are replaced by what a fit to all of the tail expects of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ppl_vae._psis import psis_tail
from ppl_vae.evidence.weights import MOST_ROUNDING

__all__ = ["psis_weights"]


def psis_weights(log_weights: Tensor, *, resolution: float = 1e-9) -> Tensor:
    r"""Normalized weights, smoothed: their sum over the draws is 1.

    Above a cutoff (the greatest :math:`min(K/5, 3 \sqrt K)` weights) a generalized Pareto distribution is fitted, and
    its quantiles take the place of the weights, in their order, none above the greatest raw one. Constant weights, and
    those that no tail can be fitted to, are only normalized.

    Args:
        log_weights: (K, ...), nats.
        resolution: the relative error of the numbers; weights that spread by no more are constant.

    Returns:
        (K, ...) float64.

    Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry: "Pareto smoothed importance sampling", 2024.

    >>> psis_weights(torch.zeros(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    flat = log_weights.detach().double().reshape(len(log_weights), -1)
    top = flat.abs().amax() if flat.numel() else flat.new_ones(())
    step = min(resolution, MOST_ROUNDING / max(float(top), 1.0)) if bool(top.isfinite()) else resolution
    columns = [_smoothed(column.numpy().copy(), step) for column in flat.T]
    smoothed = torch.from_numpy(np.stack(columns, 1)).reshape(log_weights.shape)
    return smoothed.softmax(0)


def _smoothed(ratios: np.ndarray, resolution: float) -> np.ndarray:
    tail = psis_tail(ratios, resolution)
    if tail is None:
        return ratios
    top = ratios.max()
    ratios[tail.places] = np.minimum(tail.log_quantiles + top, top)
    return ratios
