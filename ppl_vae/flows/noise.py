"""The noise that dequantization adds: numbers between 0 and 1, given the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ppl_vae.flows.layer import Coded, Layer


class Noise(nn.Module):
    """q(u | x) on [0, 1)^D.

    Implementing a new one: subclass, and write :meth:`draw` and :meth:`log_prob`.
    """

    reparametrized: bool = True

    def draw(self, x: Tensor, context: Tensor | None) -> Coded:
        """From x (*leading, D) to u of the same shape and log q(u | x) (*leading), in nats."""
        raise NotImplementedError(f"{type(self).__name__}: a noise must define draw(x, context)")

    def log_prob(self, u: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """Log q(u | x), (*leading) in nats."""
        raise NotImplementedError(f"{type(self).__name__}: a noise must define log_prob(u, x, context)")


class UniformNoise(Noise):
    """q(u | x) = 1."""

    def draw(self, x: Tensor, context: Tensor | None) -> Coded:
        """Uniform numbers and 0."""
        return torch.rand_like(x), x.new_zeros(x.shape[:-1])

    def log_prob(self, u: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """0."""
        return u.new_zeros(u.shape[:-1])


class VariationalNoise(Noise):
    """u = sigmoid(v), with v from a conditional flow over N(0, I) whose context is x.

    log q(u | x) = log N(ε; 0, I) + contribution(v, ε) - sum of log u_d (1 - u_d).

    ``ElementwiseAffine(D, context_dim=D)`` makes it a conditional logistic-normal; a chain of couplings, a flow.

    Args:
        layer: a bijection of vectors of size D, with context_dim = D; or D + C, where the surrounding layer has a
            context of size C: it then gets [x, context].

    Raises:
        ValueError: a layer that is not conditional, or that draws.

    Source: J. Ho, X. Chen, A. Srinivas, Y. Duan, P. Abbeel, "Flow++", 2019.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        if layer.context_dim is None or not (layer.deterministic_encode and layer.deterministic_decode):
            raise ValueError(f"VariationalNoise: a conditional bijection is required, got {layer.label}")
        self.layer = layer

    def draw(self, x: Tensor, context: Tensor | None) -> Coded:
        """Sigmoids of draws of the flow, and their log density."""
        base = torch.randn_like(x)
        v, contribution = self.layer.decode(base, _joined(x, context))
        return v.sigmoid(), _log_normal(base) + contribution - _log_slope(v)

    def log_prob(self, u: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """Back through the flow."""
        info = torch.finfo(u.dtype)
        u = u.clamp(info.tiny, 1 - info.eps)
        v = u.log() - (-u).log1p()
        base, contribution = self.layer.encode(v, _joined(x, context))
        return _log_normal(base) + contribution - _log_slope(v)


def _joined(x: Tensor, context: Tensor | None) -> Tensor:
    return x if context is None else torch.cat([x, context.expand(*x.shape[:-1], context.shape[-1])], -1)


def _log_normal(value: Tensor) -> Tensor:
    return -0.5 * (value.square() + math.log(2 * math.pi)).sum(-1)


def _log_slope(v: Tensor) -> Tensor:
    return (logsigmoid(v) + logsigmoid(-v)).sum(-1)
