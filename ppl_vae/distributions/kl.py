"""KL(q || p) in closed form, and only where the formula is that of these very distributions.

``torch.distributions.kl_divergence`` looks a rule up by inheritance. So a subclass with a ``log_prob`` of its own gets
the KL of its parent, a folded distribution that of what it folds, and a family without a rule of its own (Wishart) one
that has no gradient in q. Here a rule counts where both classes are exactly those that it is registered for, down to
what stands inside wrappers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from ppl_vae import _private as private
from ppl_vae.distributions.codes import Codes
from ppl_vae.distributions.domains import stays_in_domains
from ppl_vae.distributions.relaxed_codes import RelaxedCodes

__all__ = ["closed_form_kl", "event_rank", "sum_event"]

# Classes with other parameters or another way to draw, and the law of the class on the right.
_SAME_LAW: dict[type, type] = {
    RelaxedCodes: Codes,
    dist.AVFMultivariateNormal: td.MultivariateNormal,
    dist.OMTMultivariateNormal: td.MultivariateNormal,
    dist.AffineBeta: td.TransformedDistribution,
    td.Chi2: td.Gamma,
    td.InverseGamma: td.TransformedDistribution,
    td.Kumaraswamy: td.TransformedDistribution,
    td.LogisticNormal: td.TransformedDistribution,
    td.LogNormal: td.TransformedDistribution,
    td.OneHotCategoricalStraightThrough: td.OneHotCategorical,
    td.Weibull: td.TransformedDistribution,
}

# Rules of torch's (2.13) and Pyro's (1.9) that are not the expectation everywhere, and where they are not.
_LEFT_OUT: dict[tuple[type, type], str] = {
    (td.ContinuousBernoulli, td.Uniform): "inf where the interval is [0, 1] itself",
    (td.Uniform, td.ContinuousBernoulli): "inf where the interval touches 0 or 1",
    (td.Binomial, td.Binomial): "-inf or NaN at probability 1, 31 nats for inf at 0",
    (td.Geometric, td.Geometric): "inf at probability 1 of both",
    (td.Poisson, td.Poisson): "NaN at rate 0",
    (td.Bernoulli, td.Poisson): "NaN at rate 0",
    (td.Poisson, td.Bernoulli): "inf at rate 0",
    (td.Poisson, td.Binomial): "inf at rate 0",
    (dist.MaskedDistribution, dist.MaskedDistribution): "looks its bases up by inheritance; 0 where one side is masked",
}


def closed_form_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) in nats, before event dimensions are summed over which both are independent; None where there is none.

    A rule is taken where it is registered (``torch.distributions.register_kl``) for exactly the classes of q and p, and
    of what stands inside ``to_event``; Pyro's name of one of torch's classes counts as that class. Transformed
    distributions have the KL of their bases where the transforms are the same, and one to one on what the bases give.

    Args:
        q, p: distributions with one event shape, and batch shapes that can be broadcast.

    Returns:
        Of shape (*batch, *independent), the second being the event dimensions over which q and p are ``Independent``.

    >>> q, p = dist.Normal(torch.ones(2, 3), 1.0).to_event(1), dist.Normal(torch.zeros(3), 1.0).to_event(1)
    >>> closed_form_kl(q, p).shape
    torch.Size([2, 3])
    >>> closed_form_kl(dist.FoldedDistribution(dist.Normal(0.0, 1.0)), dist.HalfNormal(1.0)) is None
    True
    """
    if q.event_shape != p.event_shape:
        return None
    (q, q_rank), (p, p_rank) = _without_independent(q), _without_independent(p)
    if q_rank != p_rank:
        return _normal_against_multivariate(q, p) if q_rank - p_rank == 1 else None
    if _law(type(q)) is _law(type(p)) is td.TransformedDistribution:
        return _of_bases(q.base_dist, p.base_dist) if _is_one_map(q, p) else None
    return _by_rule(q, p)


def _of_bases(q: Any, p: Any) -> Tensor | None:
    kl = closed_form_kl(q, p)
    return None if kl is None else sum_event(kl, q, p)


def sum_event(kl: Tensor, q: Any, p: Any) -> Tensor:
    """Sum the independent event dimensions that :func:`closed_form_kl` left."""
    rank = event_rank(kl, q, p)
    return kl.sum(tuple(range(-rank, 0))) if rank else kl


def event_rank(kl: Tensor, q: Any, p: Any) -> int:
    """The number of event dimensions that :func:`closed_form_kl` left."""
    return kl.dim() - max(len(q.batch_shape), len(p.batch_shape))  # under enumeration one of them can have more


def _law(cls: type) -> type:
    """The class whose rules are those of ``cls``: itself, but for Pyro's wrappers and the few that are named above."""
    if cls.__module__ == dist.Normal.__module__:
        cls = getattr(td, cls.__name__, cls)
    return _SAME_LAW.get(cls, cls)


def _by_rule(q: Any, p: Any) -> Tensor | None:
    rule = _rule(type(q), type(p))
    if rule is None:
        return None
    if q.batch_shape != p.batch_shape:  # some rules index by one of the two shapes
        batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = q.expand(batch), p.expand(batch)
    try:
        kl: Tensor = rule(q, p)
    except NotImplementedError:  # a rule can refuse its arguments
        return None
    return kl


def _rule(q: type, p: type) -> Callable[[Any, Any], Any] | None:
    """The rule registered for exactly these classes, a user's for his own first."""
    rules = _registered()
    for pair in ((q, p), (q, _law(p)), (_law(q), p), (_law(q), _law(p))):
        rule = rules.get(pair)
        if rule is not None and not (pair in _LEFT_OUT and rule.__module__.startswith(("torch.", "pyro."))):
            return rule
    if _law(q) is _law(p) is td.HalfCauchy:  # folded in the middle of a symmetric law, which leaves the KL as it is
        return lambda q, p: _by_rule(q.base_dist, p.base_dist)
    return None


def _registered() -> dict[tuple[type, type], Callable[[Any, Any], Any]]:
    try:
        rules: dict[tuple[type, type], Callable[[Any, Any], Any]] = private.kl_rules
    except AttributeError:  # without torch's table every KL is drawn
        return {}
    return rules


def _without_independent(fn: Any) -> tuple[Any, int]:
    """What stands inside ``to_event``, and how many dimensions are taken for events in all."""
    rank = 0
    while _law(type(fn)) is td.Independent:
        fn, rank = fn.base_dist, rank + fn.reinterpreted_batch_ndims
    return fn, rank


def _normal_against_multivariate(q: Any, p: Any) -> Tensor | None:
    """Independent normals against a multivariate one: a rule of Pyro's."""
    if _law(type(q)) is not td.Normal or _law(type(p)) is not td.MultivariateNormal:
        return None
    return _by_rule(dist.Independent(q, 1), p)


# -- transforms --------------------------------------------------------------------------------------------------------


def _is_one_map(q: Any, p: Any) -> bool:
    """Are both transformed by the same map, and is it one to one on what their bases can give?"""
    if not _same_transforms(q.transforms, p.transforms):
        return False
    return all(stays_in_domains(fn.base_dist.support, fn.transforms) for fn in (q, p))


def _same_transforms(a: list[Transform], b: list[Transform]) -> bool:
    """Is it one map, one to one, with no parameter that could part the two?"""
    return len(a) == len(b) and all(map(_same_transform, a, b))


def _same_transform(a: Any, b: Any) -> bool:
    if not a.bijective:
        return False
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) is ComposeTransform:
        return _same_transforms(a.parts, b.parts)
    if type(a) is IndependentTransform:
        same_rank = a.reinterpreted_batch_ndims == b.reinterpreted_batch_ndims
        return same_rank and _same_transform(a.base_transform, b.base_transform)
    if type(a) is _Inverse:
        return _same_transform(a.inv, b.inv)
    # An inherited comparison does not know what the class has added. What is learned and equal just now has another
    # gradient on each side.
    return "__eq__" in vars(type(a)) and a == b and not _is_learned(a) and not _is_learned(b)


def _is_learned(transform: Transform) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in vars(transform).values())


_Inverse = type(Transform().inv)
