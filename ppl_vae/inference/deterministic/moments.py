r"""How far off are a guide's own means and standard deviations? Its weighted draws say, with an error bar.

The posterior's are estimated from self-normalized weights :math:`\tilde w_s \propto p / q`, and held against those of
the same draws without weights. What both share cancels, so a guide that is the posterior is found to be off by 0 ± 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Moments", "moments"]


@dataclass(frozen=True)
class Moments:
    """Of D numbers, each (D,).

    Attributes:
        shift, shift_error: the guide's mean less the posterior's, in the posterior's sds, and its standard error.
        log_ratio, log_ratio_error: log of the guide's sd over the posterior's, and its standard error.
    """

    shift: Tensor
    shift_error: Tensor
    log_ratio: Tensor
    log_ratio_error: Tensor


def moments(values: Tensor, log_weight: Tensor) -> Moments:
    """Compare draws of a guide with and without their weights.

    Standard errors are by the delta method: of the mean of what each draw adds to the difference.

    Args:
        values: (S, D) independent draws of the guide.
        log_weight: (S,) log p - log q, nats.

    Art Owen, "Monte Carlo theory, methods and examples", chapter 9 (self-normalized importance sampling), 2013.
    """
    weight = (len(log_weight) * log_weight.softmax(0)).unsqueeze(-1)  # with mean 1
    mean, own_mean = (weight * values).mean(0), values.mean(0)
    apart, own_apart = values - mean, values - own_mean
    variance, own_variance = (weight * apart.square()).mean(0), own_apart.square().mean(0)
    sd = variance.sqrt()
    adds_mean = (own_apart - weight * apart) / sd
    adds_spread = 0.5 * (own_apart.square() / own_variance - weight * apart.square() / variance - 1 + weight)
    count = math.sqrt(len(values))
    return Moments(
        (own_mean - mean) / sd,
        adds_mean.std(0) / count,
        0.5 * (own_variance / variance).log(),
        adds_spread.std(0) / count,
    )
