"""A flat prior: every value of a support alike, as a statement of Stan's without a prior has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import ImproperUniform
from torch import Tensor
from torch.distributions import biject_to, transform_to

from ppl_vae.distributions.unwrap import unwrap

__all__ = ["Flat", "is_improper"]

START = 2.0
"""Starts lie within this of 0 in the unconstrained space, as in Stan."""


class Flat(ImproperUniform):
    """An improper prior whose log density is 0 everywhere on a support.

    As a prior it stands in posteriors alone: nothing can be drawn from it, and no evidence under it is a probability.
    What :meth:`sample` gives are *starts*, uniform on (-2, 2) in the unconstrained space, so that a guide that looks
    for its first values by the prior (every autoguide of Pyro's) finds some; they are no draws of a prior, and
    ``simulate``, ``draw_prior`` and ``NaiveMonteCarlo`` refuse a pair with such a site by name.

    Args:
        support: a continuous constraint: ``constraints.real``, ``constraints.positive``, ``constraints.simplex``, ...
            Pyro's autoguides but ``AutoDelta`` ask for a bijection, which positive_definite and lower_cholesky lack.
        event_shape: the shape of one value; () for a number. A support of vectors or matrices needs one.
        batch_shape: the shape of independent ones; ``expand``, ``to_event`` and plates serve as anywhere.

    Raises:
        ValueError: a discrete support, one that no numbers without bounds can be carried onto (symmetric, square,
            lower_triangular), or an event shape with fewer dimensions than the support's.

    Source: Stan Development Team, "Stan Reference Manual" (improper priors; initialization), 2024.

    >>> from torch.distributions import constraints
    >>> Flat(constraints.positive).log_prob(torch.tensor([0.1, 1e6]))
    tensor([0., 0.])
    >>> Flat(constraints.simplex, event_shape=(3,)).sample().sum().round()
    tensor(1.)
    """

    has_rsample = False

    def __init__(self, support: Any, *, event_shape: Sequence[int] = (), batch_shape: Sequence[int] = ()) -> None:
        if support.is_discrete:
            raise ValueError(f"Flat: a continuous support is required, got {support}; give classes a Categorical prior")
        if not _can_be_reached(support):
            raise ValueError(
                f"Flat: a support onto which numbers without bounds can be carried is required (real, positive, "
                f"interval, simplex, corr_cholesky, ...), got {support}; make the value of parts that have one"
            )
        if len(event_shape) < support.event_dim:
            raise ValueError(
                f"Flat: values in {support} have {support.event_dim} dimensions of their own, whose lengths are the "
                f"event_shape=, such as (3,) for 3 shares; got {tuple(event_shape)}"
            )
        super().__init__(support, torch.Size(batch_shape), torch.Size(event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flat:
        """The same on another batch shape."""
        return Flat(self.support, event_shape=self.event_shape, batch_shape=batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, 0, in the batch's shape."""
        if self._validate_args:
            try:
                self._validate_sample(value)  # torch's own, which runs under torch.vmap too
            except ValueError as error:
                raise ValueError(f"Flat: a value in the support {self.support} is required, got another") from error
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[: value.dim() - len(self.event_shape)])
        return value.new_zeros(shape, dtype=value.dtype if value.is_floating_point() else None)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Starts: uniform on (-2, 2) in the unconstrained space, carried onto the support; no draws of a prior."""
        try:
            transform = biject_to(self.support)
        except NotImplementedError:  # of matrices that are positive definite, and others
            transform = transform_to(self.support)
        shape = transform.inverse_shape(torch.Size(sample_shape) + self.batch_shape + self.event_shape)
        value: Tensor = transform(torch.empty(shape).uniform_(-START, START))
        return value


def _can_be_reached(support: Any) -> bool:
    try:
        transform_to(support)
    except NotImplementedError:
        return False
    return True


def is_improper(fn: Any) -> bool:
    """Is this, under its wrappers, a prior that nothing can be drawn from?"""
    return isinstance(unwrap(fn), ImproperUniform)
