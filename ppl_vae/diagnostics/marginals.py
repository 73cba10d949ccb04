"""The marginals of a distribution of a vector, as one distribution with a batch dimension for each entry."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.distributions import Codes, closed_form_kl

__all__ = ["divergence", "marginal"]


def marginal(fn: Distribution) -> Distribution:
    """Take a distribution of (batch, event) to that of its entries, with event shape ().

    Raises:
        TypeError: if its marginals have no closed form.

    >>> marginal(dist.Normal(torch.zeros(3), 1.0).to_event(1)).batch_shape
    torch.Size([3])
    """
    if isinstance(fn, dist.Delta):
        raise TypeError("Delta has no density")
    if not fn.event_shape:
        return fn
    if isinstance(fn, torch.distributions.Independent):
        return marginal(fn.base_dist)
    if isinstance(fn, Codes):
        return dist.Categorical(logits=fn.logits)
    if isinstance(fn, dist.MaskedDistribution):
        return marginal(fn.base_dist)
    if isinstance(fn, (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal)):
        return dist.Normal(fn.mean, fn.variance.sqrt())
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        return _mixture_marginal(fn)
    raise TypeError(f"{type(fn).__name__} has none in closed form")


def _mixture_marginal(fn: torch.distributions.MixtureSameFamily) -> Distribution:
    """A mixture of vectors has mixtures as marginals: the same weights, the components' marginals."""
    parts = marginal(fn.component_distribution)  # (batch, components, D): components belong behind the entries
    if not isinstance(parts, torch.distributions.Normal) or len(fn.event_shape) != 1:
        raise TypeError(f"a mixture of {type(parts).__name__} has none in closed form")
    normal = dist.Normal(parts.loc.transpose(-1, -2), parts.scale.transpose(-1, -2))
    logits = fn.mixture_distribution.logits.unsqueeze(-2).expand(normal.batch_shape)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), normal)


def divergence(q: Distribution, p: Distribution, value: Tensor) -> Tensor:
    """KL(q || p) entry by entry in nats: exact where it has a closed form, else log q - log p at a draw of q."""
    kl = closed_form_kl(q, p)
    return q.log_prob(value) - p.log_prob(value) if kl is None else kl
