r"""What draws from a mixture of proposals say of log p(x): pure functions of (K, N) numbers in nats.

Parts of the mixture propose fixed numbers of draws each, and every draw is weighed by the density of the whole,

.. math:: w_k = \frac{p(x, z_k)}{\sum_c \alpha_c q_c(z_k)}, \quad h_k = \frac{q_1(z_k)}{\sum_c \alpha_c q_c(z_k)}, \quad
    \alpha_c = K_c / K

(the balance heuristic). h leads back to the guide q_1: its mean over the mixture is 1, known without an estimate, and
it is at most K / K_1. So h is a control variate: where the guide is nearly the posterior, w is nearly p(x) h, and what
the mixture alone would scatter cancels. A mixture that holds the guide and is used so is never much worse than the
guide's own draws, and where the guide misses the tails of the posterior it is far better.

Eric Veach, Leonidas Guibas: "Optimally combining sampling techniques for Monte Carlo rendering", 1995.
Art Owen, Yi Zhou: "Safe and effective importance sampling", 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.evidence.evidence import Bound, Evidence
from ppl_vae.evidence.fewer import by_fewer
from ppl_vae.evidence.weights import (
    DRAWN_APART,
    MOST_ROUNDING,
    believable,
    effective_sample_size,
    finite,
    is_constant,
    khat,
    log_mean_exp,
    of_constant,
)

__all__ = ["Weighed", "covariance_of_means", "draws_by_width", "stratified_error", "weigh"]


def draws_by_width(num_samples: int, num_widths: int) -> tuple[int, ...]:
    """How many of K draws each width proposes; all are of the first where they would not make two for each.

    >>> draws_by_width(1000, 2), draws_by_width(5, 2), draws_by_width(3, 2)
    ((500, 500), (3, 2), (3,))
    """
    if num_samples < 2 * num_widths:
        return (num_samples,)
    few, more = divmod(num_samples, num_widths)
    return tuple(few + (place < more) for place in range(num_widths))


def weigh(log_p: Tensor, log_q: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log w and log h, (S, ...), of some draws: log p is (S, ...), log q (C, S, ...) by the parts of the mixture.

    Args:
        counts: how many draws each part makes in all.

    >>> log_w, log_h = weigh(torch.tensor([0.0]), torch.tensor([[0.2], [0.6]]).log(), (500, 500))
    >>> bool(torch.isclose(log_w.exp(), torch.tensor([1 / 0.4]))), bool(torch.isclose(log_h.exp(), torch.tensor([0.5])))
    (True, True)
    """
    share = torch.tensor(counts, dtype=log_q.dtype) / sum(counts)
    log_mixture = (log_q + share.log().reshape(-1, *[1] * (log_q.dim() - 1))).logsumexp(0)
    return log_p - log_mixture, log_q[0] - log_mixture


@dataclass(frozen=True)
class Weighed:
    """K draws of a mixture, those of its first part, the guide, first.

    Attributes:
        log_w: log p - log mixture, (K, N) or (K,), nats, float64.
        log_h: log q - log mixture of the guide, likewise.
        counts: K_c, how many of them each part has made.
        coincide: where all draws are one code, so that constant weights prove nothing, (N,) or () bool.
    """

    log_w: Tensor
    log_h: Tensor
    counts: tuple[int, ...]
    coincide: Tensor = DRAWN_APART

    def unbiased(self, estimator: str, *, resolution: float = 1e-9) -> Evidence:
        r"""The evidence, a lower bound in expectation: the mean of :math:`\hat p` is p(x) for every K.

        .. math:: \hat p = \bar w (2 - \bar h) + \widehat{cov}(\bar w, \bar h)

        that is the mean weight less p(x) times what the mean of h is off, with p(x) estimated by the mean weight
        itself, and the bias of this product put right.
        """
        w, top = self._relative()
        h = self.log_h.exp()
        mean_w, mean_h = w.mean(0), h.mean(0)
        shared = covariance_of_means(w, h, self.counts)
        total = mean_w * (2 - mean_h) + shared
        total = torch.where(total > 0, total, mean_w)  # very few draws
        first = stratified_error(w / total - h, self.counts).square()
        # What the product adds, which is all that is left of the error where the guide is the posterior but for little.
        spread_w, spread_h = (covariance_of_means(v, v, self.counts) for v in (w / total, h))
        error = (first + spread_w * spread_h + (shared / total).square()).sqrt()
        fewer = by_fewer(w, h, self.counts)
        fewer = None if fewer is None else fewer + top
        return self._evidence(total.log() + top, error, estimator, "lower", resolution, fewer)

    def ratio(self, estimator: str, *, resolution: float = 1e-9, bound: Bound = "lower") -> Evidence:
        r"""The evidence as :math:`\sum_k w_k / \sum_k h_k`: the mean of p(x, z) / q(z) under draws led back to it.

        By Jensen's inequality never below the mean of its logarithm under the same draws; its bias is of order 1 / K.
        """
        w, top = self._relative()
        h = self.log_h.exp()
        value = w.sum(0) / h.sum(0)
        error = stratified_error((w / value - h) / h.mean(0), self.counts)
        return self._evidence(value.log() + top, error, estimator, bound, resolution)

    def is_posterior(self, resolution: float) -> Tensor:
        """Do the draws show that the guide is the posterior: constant weights, of more than one code? (...) bool."""
        return self._constant(resolution)[1] & ~self.coincide

    def _relative(self) -> tuple[Tensor, Tensor]:
        top = finite(self.log_w.amax(0))
        return (self.log_w - top).exp(), top

    def _evidence(
        self,
        value: Tensor,
        error: Tensor,
        estimator: str,
        bound: Bound,
        resolution: float,
        fewer: Tensor | None = None,
    ) -> Evidence:
        exact, constant = self._constant(resolution)
        value = torch.where(constant, exact, value)
        fewer = None if fewer is None else torch.where(constant, exact, fewer)
        ess, tail = effective_sample_size(self.log_w), khat(self.log_w, resolution=resolution)
        found = Evidence(value, believable(error), ess, tail, bound, estimator, fewer, num_draws=len(self.log_w))
        return of_constant(found, constant, len(self.log_w), self.coincide)

    def _constant(self, resolution: float) -> tuple[Tensor, Tensor]:
        """Log p(x) by the guide's own draws, and whether these and the others show that the guide is the posterior."""
        own = (self.log_w - self.log_h)[: self.counts[0]]
        value = log_mean_exp(own)
        by_all = self.log_w.logsumexp(0) - self.log_h.logsumexp(0)
        tolerance = (resolution * value.abs().clamp(min=1.0)).clamp(max=MOST_ROUNDING)
        agree = (by_all - value).abs() <= tolerance
        return value, is_constant(own, resolution) & agree


def covariance_of_means(a: Tensor, b: Tensor, counts: Sequence[int]) -> Tensor:
    """The covariance of the means of a and b, (K, ...), of draws of which each part makes a fixed number."""
    total = torch.zeros_like(a[0])
    for of_a, of_b in zip(a.split(list(counts)), b.split(list(counts)), strict=True):
        scatter = ((of_a - of_a.mean(0)) * (of_b - of_b.mean(0))).sum(0)
        total = total + len(of_a) / (len(of_a) - 1) * scatter if len(of_a) > 1 else total * math.nan
    return total / len(a) ** 2


def stratified_error(values: Tensor, counts: Sequence[int]) -> Tensor:
    """The standard error of a mean over (K, ...) draws, fixed numbers of which come from each part; nan for one draw.

    What lies between the means of the parts is no error: it stays the same from run to run.

    >>> stratified_error(torch.tensor([1.0, 1.0, 5.0, 5.0]), (2, 2)), stratified_error(torch.tensor([1.0, 5.0]), (2,))
    (tensor(0.), tensor(2.))
    """
    return covariance_of_means(values, values, counts).sqrt()
