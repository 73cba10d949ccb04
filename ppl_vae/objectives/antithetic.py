"""Pairs of binary draws from one uniform number: the second falls where the first would by the uniform's mirror."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Bernoulli

from ppl_vae.distributions import unwrap
from ppl_vae.pair import Execution
from ppl_vae.pair.layout import Layout


def binary_logits(fn: Any) -> Tensor | None:
    """The logit of 1 of every entry of a distribution's value, in the value's shape; None if they are not binary.

    Binary are Bernoulli distributions, and classes whose ``logits`` have one axis more than the value, of size 2.
    """
    base, shape = unwrap(fn), fn.batch_shape + fn.event_shape
    logits = getattr(base, "logits", None)
    if isinstance(base, Bernoulli):
        return base.logits.expand(shape)
    if not isinstance(logits, Tensor) or logits.dim() != len(shape) + 1 or logits.shape[-1] != 2:
        return None
    return logits[..., 1] - logits[..., 0]


class Antithetic(Messenger):
    r"""Draw two antithetic values of each binary site, in one run of two particles or in two runs.

    .. math:: b = 1[\alpha + \epsilon > 0], \quad \tilde b = 1[\alpha - \epsilon > 0],
        \quad \epsilon = \log u - \log(1 - u), \quad u \sim U(0, 1)

    Args:
        layout: of the pair that is run.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        self._noise: dict[str, Tensor] = {}  # of a first run, for the second

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg) or msg["fn"].has_rsample:
            return
        logits = binary_logits(msg["fn"])
        if logits is not None:
            ones = self._ones(msg["name"], logits.detach(), _particle_axis(msg["fn"], self._layout))
            msg["value"] = ones.to(logits.dtype) if isinstance(unwrap(msg["fn"]), Bernoulli) else ones.long()
            msg["done"] = True

    def _ones(self, name: str, logits: Tensor, axis: int | None) -> Tensor:
        if axis is not None:
            noise = _logistic(logits.narrow(axis, 0, 1))
            return logits + torch.cat([noise, -noise], axis) > 0
        if name in self._noise:
            return logits - self._noise.pop(name) > 0
        self._noise[name] = noise = _logistic(logits)
        return logits + noise > 0


def _logistic(like: Tensor) -> Tensor:
    u = torch.rand_like(like)
    return u.log() - (-u).log1p()


def _particle_axis(fn: Any, layout: Layout) -> int | None:
    """Where the two particles of a vectorized run lie; None in a run of one draw."""
    axis = len(fn.batch_shape) + layout.particle_dim
    return axis if axis >= 0 else None


def antithetic_score(runs: list[Execution], name: str) -> Tensor:
    r"""What takes the place of the score of a binary site: (1, B), differentiable in its logits.

    .. math:: \sum_i (b_i - \tilde b_i)\, \sigma(|\alpha_i|)\, \alpha_i
    """
    guide = runs[0].score_guide()[name]
    fn, values = guide.site["fn"], [_value(run, name) for run in runs]
    logits, axis = binary_logits(fn), _particle_axis(fn, runs[0].layout)
    assert logits is not None, "antithetic_score: a binary site"
    if len(runs) == 1:
        assert axis is not None, "antithetic_score: a run of two particles"
        logits, values = logits.narrow(axis, 0, 1), [values[0].narrow(axis, i, 1) for i in (0, 1)]
    weight = (values[0] - values[1]) * torch.sigmoid(logits.detach().abs())
    term: Tensor = weight * logits
    event = len(fn.event_shape)
    score: Tensor = guide.reduce(term.flatten(-event).sum(-1) if event else term)
    return score


def _value(run: Execution, name: str) -> Tensor:
    site: Any = run.guide_trace.nodes[name]
    value: Tensor = site["value"]
    return value
